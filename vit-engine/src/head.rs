//! From the last layer's tokens to what was asked for: final norm, pooling, head.
use vit_kernels::{Epilogue, elementwise};

use crate::arena::take;
use crate::config::Pool;
use crate::executor::Stage;
use crate::features::Features;
use crate::forward::Pass;

impl Pass<'_> {
    /// `residual` is \[images, rows, dim\]: all tokens, or the class token alone.
    pub(crate) fn head(&self, residual: &[f32], mut arena: &mut [f32], out: &mut [f32]) {
        let c = &self.model.config;
        let images = residual.chunks_exact(residual.len() / self.images);
        match self.plan.features() {
            Features::Class => {
                for (tokens, out) in images.zip(out.chunks_exact_mut(c.dim)) {
                    self.final_norm(&tokens[..c.dim], out);
                }
            }
            Features::Patches => {
                for (tokens, out) in images.zip(out.chunks_exact_mut(c.patches() * c.dim)) {
                    self.final_norm(&tokens[c.prefix() * c.dim..], out);
                }
            }
            Features::Logits => {
                let len = self.images * c.dim;
                let pooled = take(&mut arena, len); // [images, dim]
                let normed = take(&mut arena, len); // [images, dim]
                for (tokens, pooled) in images.zip(pooled.chunks_exact_mut(c.dim)) {
                    self.pool(tokens, &mut arena[..c.dim], pooled);
                }
                let mut input = &*pooled;
                if let Some(norm) = self.model.head_norm() {
                    self.norm(pooled, norm, normed);
                    input = normed;
                }
                if let Some(head) = self.model.head() {
                    self.linear(Stage::Head, input, head, Epilogue::default(), &mut [], out);
                }
            }
        }
    }

    /// What the head reads of an image; `row` is scratch, \[dim\].
    fn pool(&self, tokens: &[f32], row: &mut [f32], pooled: &mut [f32]) {
        let (c, isa) = (&self.model.config, self.model.isa);
        if c.pool == Pool::Class {
            return self.final_norm(&tokens[..c.dim], pooled);
        }
        let averaged = c.pool.averaged(c);
        pooled.fill(0.0);
        for token in averaged.clone() {
            self.final_norm(&tokens[token * c.dim..][..c.dim], row);
            elementwise::add(isa, pooled, row).expect("both are [dim]");
        }
        elementwise::scale(isa, pooled, 1.0 / averaged.len() as f32);
    }

    fn final_norm(&self, x: &[f32], out: &mut [f32]) {
        match self.model.final_norm() {
            Some(norm) => self.norm(x, norm, out),
            None => out.copy_from_slice(x),
        }
    }
}
