//! The feed-forward block: x = x + scale ⊙ down(hidden), where hidden = activation(up(norm(x))) or, if gated,
//! activation(gate(norm(x))) ⊙ up(norm(x)).
use vit_kernels::{Accumulate, Epilogue};

use crate::buffers::LayerBuffers;
use crate::executor::Stage;
use crate::forward::Pass;

impl Pass<'_> {
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn feed_forward(&self, index: usize, residual: &mut [f32], buffers: &mut LayerBuffers<'_>) {
        let (c, layer) = (&self.model.config, self.model.feed_forward(index));
        let activation = Epilogue { activation: Some(c.activation), ..Epilogue::default() };
        for block in residual.chunks_mut(self.plan.rows() * c.dim) {
            let rows = block.len() / c.dim;
            let norm = &mut buffers.work.norm[..rows * c.dim]; // [rows, dim]
            let (mut hidden, spare) = buffers.work.wide.split_at_mut(rows * c.mlp_dim); // [rows, mlp_dim]
            match layer.gate {
                Some(gate) => {
                    let through = Epilogue { accumulate: Accumulate::Multiply, ..Epilogue::default() };
                    let x = self.norm_for(block, layer.norm, &gate.weight, norm, &mut buffers.rows);
                    self.linear(Stage::Up, x, gate, activation, &mut [], hidden);
                    // One of the two may be kept in f32.
                    let x = if gate.weight.format() == layer.up.weight.format() {
                        x
                    } else {
                        self.norm_for(block, layer.norm, &layer.up.weight, norm, &mut buffers.rows)
                    };
                    self.linear(Stage::Up, x, layer.up, through, &mut [], hidden);
                }
                None => {
                    let x = self.norm_for(block, layer.norm, &layer.up.weight, norm, &mut buffers.rows);
                    self.linear(Stage::Up, x, layer.up, activation, &mut [], hidden);
                }
            }
            if let Some(hidden_norm) = layer.hidden_norm {
                let normed = &mut spare[..hidden.len()];
                self.norm(hidden, hidden_norm, normed);
                hidden = normed;
            }
            let onto = Epilogue { scale: layer.scale, ..Epilogue::RESIDUAL };
            let x = self.activations(hidden, &layer.down.weight, &mut buffers.rows);
            self.linear(Stage::Down, x, layer.down, onto, norm, block);
        }
    }
}
