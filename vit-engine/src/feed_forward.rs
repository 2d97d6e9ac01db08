//! The feed-forward block: x = x + down(activation(up(norm(x)))).
use vit_kernels::Epilogue;

use crate::attention::Scratch;
use crate::executor::Stage;
use crate::forward::Pass;
use crate::model::Layer;

impl Pass<'_> {
    pub(crate) fn feed_forward(&self, layer: &Layer<'_>, residual: &mut [f32], scratch: &mut Scratch<'_>) {
        let c = &self.model.config;
        for block in residual.chunks_mut(self.plan.rows() * c.dim) {
            let rows = block.len() / c.dim;
            let norm = &mut scratch.norm[..rows * c.dim]; // [rows, dim]
            let hidden = &mut scratch.wide[..rows * c.mlp_dim]; // [rows, mlp_dim]
            self.norm(block, layer.mlp_norm, norm);
            let activation = Epilogue { activation: Some(c.activation), ..Epilogue::default() };
            self.linear(Stage::Up, norm, layer.up, activation, &mut [], hidden);
            self.linear(Stage::Down, hidden, layer.down, Epilogue::RESIDUAL, norm, block);
        }
    }
}
