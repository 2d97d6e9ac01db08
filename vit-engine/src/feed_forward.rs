//! The feed-forward block: x = x + down(activation(up(norm(x)))).
use vit_kernels::Epilogue;

use crate::attention::Scratch;
use crate::executor::Executor;
use crate::forward::Pass;
use crate::model::Layer;

impl<X: Executor> Pass<'_, X> {
    pub(crate) fn feed_forward(&self, layer: &Layer<'_>, residual: &mut [f32], scratch: &mut Scratch<'_>) {
        let c = &self.model.config;
        for block in residual.chunks_mut(self.plan.rows() * c.dim) {
            let rows = block.len() / c.dim;
            let norm = &mut scratch.norm[..rows * c.dim]; // [rows, dim]
            let hidden = &mut scratch.wide[..rows * c.mlp_dim]; // [rows, mlp_dim]
            self.norm(block, layer.mlp_norm, norm);
            self.linear(norm, layer.up, Epilogue { activation: Some(c.activation), ..Epilogue::default() }, hidden);
            self.linear(hidden, layer.down, Epilogue { residual: true, ..Epilogue::default() }, block);
        }
    }
}
