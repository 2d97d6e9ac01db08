//! The attention block: x = x + out(attention(norm(x))).
use core::ops::Range;

use vit_kernels::{Attention, Epilogue, elementwise};

use crate::arena::take;
use crate::executor::Stage;
use crate::forward::Pass;
use crate::model::Layer;
use crate::plan::{Buffers, kv_layout};

/// What the layers work in.
pub(crate) struct Scratch<'a> {
    kv: &'a mut [f32],              // [images, tokens, 2·inner]
    pub(crate) norm: &'a mut [f32], // [rows, dim]
    pub(crate) wide: &'a mut [f32], // [rows, 2·inner or mlp_dim, whichever is more]
}

impl<'a> Scratch<'a> {
    pub(crate) fn new(buffers: &Buffers, mut arena: &'a mut [f32]) -> Self {
        Self {
            kv: take(&mut arena, buffers.kv),
            norm: take(&mut arena, buffers.norm),
            wide: take(&mut arena, buffers.wide),
        }
    }
}

impl Pass<'_> {
    /// Keys and values of every row, block by block.
    pub(crate) fn keys_and_values(&self, layer: &Layer<'_>, residual: &[f32], scratch: &mut Scratch<'_>) {
        let c = &self.model.config;
        for (index, block) in residual.chunks(self.plan.rows() * c.dim).enumerate() {
            let (first, rows) = (index * self.plan.rows(), block.len() / c.dim);
            let norm = &mut scratch.norm[..rows * c.dim]; // [rows, dim]
            let kv = &mut scratch.kv[first * 2 * c.inner()..][..rows * 2 * c.inner()]; // [rows, 2·inner]
            self.norm(block, layer.attention_norm, norm);
            self.linear(Stage::KeysValues, norm, layer.kv, Epilogue::default(), &mut [], kv);
        }
    }

    /// Attention of the residual's rows over the keys and values, projected and added; as many rows an image as the
    /// residual has.
    pub(crate) fn attention(&self, layer: &Layer<'_>, residual: &mut [f32], scratch: &mut Scratch<'_>) {
        let (c, layout) = (&self.model.config, kv_layout(&self.model.config));
        let kv_of = layout.len().expect("the plan added it up");
        let rows_per_image = residual.len() / c.dim / self.images;
        // One block of all rows: the keys and values were made from the same rows, normalised.
        let normed = rows_per_image == c.tokens() && residual.len() <= self.plan.rows() * c.dim;
        for (index, block) in residual.chunks_mut(self.plan.rows() * c.dim).enumerate() {
            let rows = block.len() / c.dim;
            let norm = &mut scratch.norm[..rows * c.dim]; // [rows, dim]
            let (q, mixed) = scratch.wide[..2 * rows * c.inner()].split_at_mut(rows * c.inner()); // [rows, inner] each
            if !normed {
                self.norm(block, layer.attention_norm, norm);
            }
            self.linear(Stage::Queries, norm, layer.q, Epilogue::default(), &mut [], q);
            for (image, _, part) in by_image(index * self.plan.rows(), rows, rows_per_image) {
                let part = part.start * c.inner()..part.end * c.inner();
                let kv = &scratch.kv[image * c.tokens() * 2 * c.inner()..][..kv_of];
                let (isa, scale) = (self.model.isa, c.attention_scale);
                let job = Attention::new(isa, layout, scale, &q[part.clone()], kv, &mut mixed[part]);
                self.team.run(Stage::Attention, &mut job.expect("the plan reserved an image's keys and values"));
            }
            match layer.out {
                Some(out) => self.linear(Stage::Output, mixed, out, Epilogue::RESIDUAL, norm, block),
                None => elementwise::add(self.model.isa, block, mixed).expect("without a projection inner is dim"),
            }
        }
    }
}

/// Cuts a block of `rows` rows from row `start` on at the images' borders: (image, first row in it, rows of the block).
fn by_image(start: usize, rows: usize, rows_per_image: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let (image, row) = ((start + at) / rows_per_image, (start + at) % rows_per_image);
        let part = at..(at + rows_per_image - row).min(rows);
        at = part.end;
        (!part.is_empty()).then_some((image, row, part))
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::by_image;

    #[test]
    fn blocks_are_cut_at_images() {
        assert_eq!(by_image(3, 9, 5).collect::<Vec<_>>(), [(0, 3, 0..2), (1, 0, 2..7), (2, 0, 7..9)]);
        assert_eq!(by_image(2, 2, 1).collect::<Vec<_>>(), [(2, 0, 0..1), (3, 0, 1..2)]);
        assert_eq!(by_image(5, 5, 5).collect::<Vec<_>>(), [(1, 0, 0..5)]);
    }
}
