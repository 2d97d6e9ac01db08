//! Pixels to tokens: cut into patches, flatten, project, add the positions; put the learned tokens in front.
use vit_kernels::{Epilogue, elementwise};

use crate::buffers::EmbedBuffers;
use crate::config::{Config, PatchOrder};
use crate::executor::Stage;
use crate::forward::{Pass, Stopped, Strips};
use crate::parameters::Site;

impl Pass<'_> {
    /// Fills `residual`, \[images, tokens, dim\], with the tokens of the images from `first` on. The buffers come from
    /// `arena`.
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn embed(
        &self,
        first: usize,
        strips: &mut Strips<'_>,
        arena: &mut [u8],
        residual: &mut [f32],
    ) -> Result<(), Stopped> {
        let c = &self.model.config;
        let (mut buffers, _) = EmbedBuffers::carve(c, self.plan.rows(), arena);
        let ([grid_rows, grid_columns], len) = (c.grid(), c.patch_len());
        for (image, tokens) in residual.chunks_exact_mut(c.tokens() * c.dim).enumerate() {
            let (prefix, patches) = tokens.split_at_mut(c.prefix() * c.dim);
            self.prefix(prefix);
            let (mut done, mut gathered) = (0, 0);
            for row in 0..grid_rows {
                strips(first + image, row * c.patch[0], buffers.strip)?;
                for column in 0..grid_columns {
                    flatten(c, buffers.strip, column, &mut buffers.patches[gathered * len..][..len]);
                    gathered += 1;
                    let last = (row + 1, column + 1) == (grid_rows, grid_columns);
                    if gathered * len == buffers.patches.len() || last {
                        self.project(done, gathered, &mut buffers, &mut patches[done * c.dim..][..gathered * c.dim]);
                        (done, gathered) = (done + gathered, 0);
                    }
                }
            }
        }
        if let Some(norm) = self.model.norm(Site::PreNorm) {
            for block in residual.chunks_mut(buffers.projected.len()) {
                let normed = &mut buffers.projected[..block.len()];
                self.norm(block, norm, normed);
                block.copy_from_slice(normed);
            }
        }
        Ok(())
    }

    /// Writes the learned tokens, \[prefix, dim\], with their positions added.
    fn prefix(&self, out: &mut [f32]) {
        let model = self.model;
        let mut at = 0;
        for site in [Site::ClassToken, Site::DistillationToken, Site::Registers] {
            let tokens = model.rows(site).unwrap_or_default();
            out[at..at + tokens.len()].copy_from_slice(tokens);
            at += tokens.len();
        }
        let len = model.config.position_prefix() * model.config.dim;
        if let Some(positions) = model.positions() {
            elementwise::add(model.isa, &mut out[..len], &positions[..len]).expect("both are whole tokens");
        }
    }

    /// Projects the gathered patches, \[count, patch_len\], to tokens, \[count, dim\], and adds their positions.
    /// `first` is the number of the first patch.
    fn project(&self, first: usize, count: usize, buffers: &mut EmbedBuffers<'_>, out: &mut [f32]) {
        let (model, c) = (self.model, &self.model.config);
        let positions = model.positions().map(|rows| &rows[(c.position_prefix() + first) * c.dim..][..out.len()]);
        let mut patches = &buffers.patches[..count * c.patch_len()];
        if let Some(norm) = model.norm(Site::PatchNorm) {
            let normed = &mut buffers.normed[..patches.len()];
            self.norm(patches, norm, normed);
            patches = normed;
        }
        let projected = &mut buffers.projected[..out.len()];
        match (model.norm(Site::EmbedNorm), positions) {
            (Some(norm), positions) => {
                self.linear(Stage::Embed, patches, model.patch(), Epilogue::default(), &mut [], projected);
                self.norm(projected, norm, out);
                if let Some(positions) = positions {
                    elementwise::add(model.isa, out, positions).expect("a position for every token");
                }
            }
            (None, Some(positions)) => {
                out.copy_from_slice(positions);
                self.linear(Stage::Embed, patches, model.patch(), Epilogue::RESIDUAL, projected, out);
            }
            (None, None) => {
                self.linear(Stage::Embed, patches, model.patch(), Epilogue::default(), &mut [], out);
            }
        }
    }
}

/// Copies one patch, at a column of the grid, out of a strip, \[channels, patch height, width\], in the config's patch
/// order.
fn flatten(c: &Config, strip: &[f32], column: usize, patch: &mut [f32]) {
    let [height, width] = c.patch;
    let row = |channel: usize, y: usize| &strip[(channel * height + y) * c.image[1] + column * width..][..width];
    match c.patch_order {
        PatchOrder::ChannelRowColumn => {
            for (i, out) in patch.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(row(i / height, i % height));
            }
        }
        PatchOrder::RowColumnChannel => {
            for channel in 0..c.channels {
                for y in 0..height {
                    let out = patch[y * width * c.channels + channel..].iter_mut().step_by(c.channels);
                    out.zip(row(channel, y)).for_each(|(out, pixel)| *out = *pixel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny;

    #[test]
    fn both_orders() {
        // Two channels of 2 × 4 pixels, numbered channel·100 + y·10 + x; the second patch of 2 × 2.
        let strip: [f32; 16] = core::array::from_fn(|i| (i / 8 * 100 + i / 4 % 2 * 10 + i % 4) as f32);
        let mut c = Config { channels: 2, image: [2, 4], patch: [2, 2], ..tiny() };
        let mut patch = [0.0; 8];
        c.patch_order = PatchOrder::ChannelRowColumn;
        flatten(&c, &strip, 1, &mut patch);
        assert_eq!(patch, [2.0, 3.0, 12.0, 13.0, 102.0, 103.0, 112.0, 113.0]);
        c.patch_order = PatchOrder::RowColumnChannel;
        flatten(&c, &strip, 1, &mut patch);
        assert_eq!(patch, [2.0, 102.0, 3.0, 103.0, 12.0, 112.0, 13.0, 113.0]);
    }
}
