//! The attention block: x = x + scale ⊙ out(attention(norm(x))).
use core::ops::Range;

use vit_kernels::{
    Bf16Kv, Epilogue, Inputs, KeysValues, LayerNorm, QuantiseKv, QuantisedKv, RelativeBias, Rope, RoundKv, Scores,
    elementwise,
};

use crate::buffers::{KvBuffers, LayerBuffers, NarrowKvBuffers, kv_layout};
use crate::executor::Stage;
use crate::forward::{BF16, Pass};
use crate::model::Attention;
use crate::parameters::Site;
use crate::weights::Norm;

/// The rows of a block that belong to one image.
struct OfImage {
    image: usize,
    /// The number of the first row within the image.
    row: usize,
    /// The range of these rows within the block.
    part: Range<usize>,
}

impl Pass<'_> {
    /// Computes the keys and values of all rows, block by block.
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn keys_and_values(&self, index: usize, residual: &[f32], buffers: &mut LayerBuffers<'_>) {
        let (c, layer) = (&self.model.config, &self.model.attention_keys_values(index));
        let (inner, pair) = (c.inner(), 2 * c.inner());
        for (index, block) in residual.chunks(self.plan.rows() * c.dim).enumerate() {
            let (first, rows) = (index * self.plan.rows(), block.len() / c.dim);
            let norm = &mut buffers.work.norm[..rows * c.dim]; // [rows, dim]
            let x = self.norm_for(block, layer.norm, &layer.kv.weight, norm, &mut buffers.rows);
            let (kv, wide) = match self.plan.precision().inputs() {
                Inputs::F32 => (&mut buffers.kv.kv[first * pair..][..rows * pair], &mut *buffers.work.wide),
                _ => buffers.work.wide.split_at_mut(rows * pair), // [rows, 2·inner]
            };
            self.linear(Stage::KeysValues, x, layer.kv, Epilogue::default(), &mut [], kv);
            if let Some(key_norm) = layer.key_norm {
                let (keys, normed) = wide[..rows * pair].split_at_mut(rows * inner); // [rows, inner] each
                for (key, kv) in keys.chunks_exact_mut(inner).zip(kv.chunks_exact(pair)) {
                    key.copy_from_slice(&kv[..inner]);
                }
                self.norm_heads(keys, key_norm, normed);
                for (key, kv) in normed.chunks_exact(inner).zip(kv.chunks_exact_mut(pair)) {
                    kv[..inner].copy_from_slice(key);
                }
            }
            for of in by_image(first, rows, c.tokens()) {
                let kv = &mut kv[of.part.start * pair..of.part.end * pair];
                self.rotate(&of, pair, kv);
                self.store_kv(&of, kv, &mut buffers.narrow_kv);
            }
        }
    }

    /// Stores keys and values of an image's rows, \[rows, 2·inner\], as the precision multiplies them, if not in f32.
    #[inline(never)] // So that its job is not on the stack of the projection.
    fn store_kv(&self, of: &OfImage, kv: &[f32], buffers: &mut NarrowKvBuffers<'_>) {
        let (isa, layout) = (self.model.isa, kv_layout(&self.model.config));
        let room = "the plan reserved an image's keys and values";
        match self.plan.precision().inputs() {
            Inputs::Bf16 if BF16 => {
                let job = RoundKv::new(isa, layout, kv, of.row, &mut buffers.bf16_kv[part(of, layout.bf16_len())]);
                self.team.run(Stage::Quantise, &mut job.expect(room));
            }
            Inputs::Int8 => {
                let values = &mut buffers.int8_kv[part(of, layout.int8_len())];
                let scales = &mut buffers.kv_scales[part(of, layout.scales_len())];
                let job = QuantiseKv::new(isa, layout, kv, of.row, values, scales);
                self.team.run(Stage::Quantise, &mut job.expect(room));
            }
            _ => {}
        }
    }

    /// Attention of the rows of the residual over the keys and values, projected and added to the residual. The
    /// residual may have fewer rows per image than there are keys.
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn attention(&self, index: usize, residual: &mut [f32], buffers: &mut LayerBuffers<'_>) {
        let (c, layer) = (&self.model.config, &self.model.attention(index));
        let inner = c.inner();
        let rows_per_image = residual.len() / c.dim / self.images;
        // If one block has all rows, the buffers still hold them, normalised for the keys and values.
        let whole = rows_per_image == c.tokens() && residual.len() <= self.plan.rows() * c.dim;
        let normed = whole && layer.kv_inputs == layer.q.weight.format().inputs();
        for (index, block) in residual.chunks_mut(self.plan.rows() * c.dim).enumerate() {
            let (first, rows) = (index * self.plan.rows(), block.len() / c.dim);
            let norm = &mut buffers.work.norm[..rows * c.dim]; // [rows, dim]
            let wide = &mut buffers.work.wide[..2 * rows * inner];
            let x = if normed {
                self.same_activations(norm, &layer.q.weight, &buffers.rows)
            } else {
                self.norm_for(block, layer.norm, &layer.q.weight, norm, &mut buffers.rows)
            };
            let (q, spare) = wide.split_at_mut(rows * inner); // [rows, inner] each
            self.linear(Stage::Queries, x, layer.q, Epilogue::default(), &mut [], q);
            let (q, context) = self.place_queries(layer, first, rows_per_image, q, spare);
            for of in by_image(first, rows, rows_per_image) {
                let part = of.part.start * inner..of.part.end * inner;
                let kv = self.stored_kv(&of, &buffers.kv, &buffers.narrow_kv);
                self.attend(layer, &of, &q[part.clone()], kv, buffers.work.norm, &mut context[part]);
            }
            let (mut context, spare) = (context, q);
            if let Some(norm) = layer.context_norm {
                self.norm(context, norm, spare);
                context = spare;
            }
            match layer.out {
                Some(out) => {
                    let onto = Epilogue { scale: layer.scale, ..Epilogue::RESIDUAL };
                    let x = self.activations(context, &out.weight, &mut buffers.rows);
                    let partial = &mut buffers.work.norm[..rows * c.dim];
                    self.linear(Stage::Output, x, out, onto, partial, block);
                }
                None => {
                    elementwise::add(self.model.isa, block, context).expect("without an output projection inner is dim")
                }
            }
        }
    }

    /// Attention of some queries of one image into `context`, \[rows, inner\].
    #[inline(never)] // So that the job is not on the stack of the projections.
    fn attend(
        &self,
        layer: &Attention<'_>,
        of: &OfImage,
        q: &[f32],
        kv: KeysValues<'_>,
        scratch: &mut [f32],
        context: &mut [f32],
    ) {
        let mut job = self.scores(layer, of, q, kv).attend(context);
        let job = job.as_mut().expect("the context has as many rows as the queries");
        job.set_scratch(scratch);
        self.team.run(Stage::Attention, job);
    }

    /// Writes the attention probabilities of this layer to `out`, \[images, layers, heads, tokens, tokens\], at index
    /// `place` of the `layers`.
    pub(crate) fn attention_maps(
        &self,
        index: usize,
        [place, layers]: [usize; 2],
        residual: &[f32],
        buffers: &mut LayerBuffers<'_>,
        out: &mut [f32],
    ) {
        let (c, layer) = (&self.model.config, &self.model.attention(index));
        let map = c.heads * c.tokens() * c.tokens();
        for (block_index, block) in residual.chunks(self.plan.rows() * c.dim).enumerate() {
            let (first, rows) = (block_index * self.plan.rows(), block.len() / c.dim);
            let norm = &mut buffers.work.norm[..rows * c.dim]; // [rows, dim]
            let wide = &mut buffers.work.wide[..2 * rows * c.inner()];
            let x = self.norm_for(block, layer.norm, &layer.q.weight, norm, &mut buffers.rows);
            let (q, spare) = wide.split_at_mut(rows * c.inner()); // [rows, inner] each
            self.linear(Stage::Queries, x, layer.q, Epilogue::default(), &mut [], q);
            let (q, _) = self.place_queries(layer, first, c.tokens(), q, spare);
            for of in by_image(first, rows, c.tokens()) {
                let q = &q[of.part.start * c.inner()..of.part.end * c.inner()];
                let out = &mut out[(of.image * layers + place) * map..][..map];
                let kv = self.stored_kv(&of, &buffers.kv, &buffers.narrow_kv);
                let job = self.scores(layer, &of, q, kv).maps(of.row, c.tokens(), out);
                self.team.run(Stage::Attention, &mut job.expect("out has room for the map of every head"));
            }
        }
    }

    /// Normalises and rotates the queries of a block whose first row is `first`, if the model does so. Returns them and
    /// the other of the two buffers, both \[rows, inner\].
    #[inline(never)] // As above.
    fn place_queries<'w>(
        &self,
        layer: &Attention<'_>,
        first: usize,
        rows_per_image: usize,
        mut q: &'w mut [f32],
        mut spare: &'w mut [f32],
    ) -> (&'w mut [f32], &'w mut [f32]) {
        let inner = self.model.config.inner();
        if let Some(norm) = layer.query_norm {
            self.norm_heads(q, norm, spare);
            (q, spare) = (spare, q);
        }
        for of in by_image(first, q.len() / inner, rows_per_image) {
            self.rotate(&of, inner, &mut q[of.part.start * inner..of.part.end * inner]);
        }
        (q, spare)
    }

    /// The keys and values of one image.
    #[inline(never)] // As above.
    fn stored_kv<'k>(&self, of: &OfImage, wide: &'k KvBuffers<'_>, narrow: &'k NarrowKvBuffers<'_>) -> KeysValues<'k> {
        let layout = kv_layout(&self.model.config);
        let room = "the buffers have room for the keys and values of every image";
        match self.plan.precision().inputs() {
            Inputs::Bf16 if BF16 => {
                Bf16Kv::new(layout, &narrow.bf16_kv[part(of, layout.bf16_len())]).expect(room).into()
            }
            Inputs::Int8 => {
                let values = &narrow.int8_kv[part(of, layout.int8_len())];
                let scales = &narrow.kv_scales[part(of, layout.scales_len())];
                QuantisedKv::new(self.model.isa, layout, values, scales).expect(room).into()
            }
            _ => wide.kv[part(of, layout.len())].into(),
        }
    }

    /// The attention scores of some queries of one image, which the softmax is applied to.
    fn scores<'s>(&self, layer: &Attention<'s>, of: &OfImage, q: &'s [f32], kv: KeysValues<'s>) -> Scores<'s> {
        let c = &self.model.config;
        let scores = Scores::new(self.model.isa, kv_layout(c), c.attention_scale, q, kv);
        let scores = scores.expect("the buffers have room for the keys and values of every image");
        match layer.relative_bias {
            Some(table) => {
                let bias = RelativeBias { table, grid: c.grid(), first_query: of.row };
                scores.with_bias(bias).expect("a relative bias has one row per head, and its model a class token")
            }
            None => scores,
        }
    }

    /// LayerNorm of each head of each row.
    fn norm_heads(&self, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
        let job = LayerNorm::new(self.model.isa, x, norm.gamma, norm.beta, self.model.config.norm_eps, out);
        self.team.run(Stage::Norm, &mut job.expect("every row is a whole number of heads"));
    }

    /// Rotates queries or keys of one image's rows in place, if the model has rotary positions. Only patches are
    /// rotated.
    fn rotate(&self, of: &OfImage, stride: usize, x: &mut [f32]) {
        let c = &self.model.config;
        let Some(table) = self.model.rows(Site::Rope) else { return };
        let skip = c.prefix().saturating_sub(of.row).min(of.part.len());
        let patches = of.part.len() - skip;
        if patches > 0 {
            let table = &table[(of.row + skip - c.prefix()) * c.head_dim..][..patches * c.head_dim];
            let rope = Rope::new(self.model.isa, &mut x[skip * stride..], stride, [c.heads, c.head_dim], table);
            self.team.run(Stage::Rope, &mut rope.expect("the table has a row for every patch"));
        }
    }
}

/// The image's part of a buffer that has `len` elements per image.
fn part(of: &OfImage, len: Option<usize>) -> Range<usize> {
    let len = len.expect("the plan has computed this length");
    of.image * len..(of.image + 1) * len
}

/// Splits a block of `rows` rows, from row `start` on, where a new image begins.
fn by_image(start: usize, rows: usize, rows_per_image: usize) -> impl Iterator<Item = OfImage> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let (image, row) = ((start + at) / rows_per_image, (start + at) % rows_per_image);
        let part = at..(at + rows_per_image - row).min(rows);
        at = part.end;
        (!part.is_empty()).then_some(OfImage { image, row, part })
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::by_image;

    #[test]
    fn blocks_are_cut_at_images() {
        let cut = |start, rows, rows_per_image| {
            by_image(start, rows, rows_per_image).map(|of| (of.image, of.row, of.part)).collect::<Vec<_>>()
        };
        assert_eq!(cut(3, 9, 5), [(0, 3, 0..2), (1, 0, 2..7), (2, 0, 7..9)]);
        assert_eq!(cut(2, 2, 1), [(2, 0, 0..1), (3, 0, 1..2)]);
        assert_eq!(cut(5, 5, 5), [(1, 0, 0..5)]);
    }
}
