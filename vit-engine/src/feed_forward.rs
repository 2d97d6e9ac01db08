//! The feed-forward block: x = x + scale ⊙ down(hidden), where hidden = activation(up(norm(x))) or, if gated,
//! activation(gate(norm(x))) ⊙ up(norm(x)).
use vit_kernels::{Accumulate, Epilogue, Inputs, Packed, bf16_len};

use crate::buffers::LayerBuffers;
use crate::executor::Stage;
use crate::forward::{BF16, Pass};

impl Pass<'_> {
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn feed_forward(&self, index: usize, residual: &mut [f32], buffers: &mut LayerBuffers<'_>) {
        let (c, layer) = (&self.model.config, self.model.feed_forward(index));
        let activation = Epilogue { activation: Some(c.activation), ..Epilogue::default() };
        let onto = Epilogue { scale: layer.scale, ..Epilogue::RESIDUAL };
        let is_bf16 = |weight: &Packed<'_>| weight.format().inputs() == Inputs::Bf16;
        let only_rounded = layer.gate.is_none() && layer.hidden_norm.is_none();
        let to_bf16 = BF16 && only_rounded && is_bf16(&layer.up.weight) && is_bf16(&layer.down.weight);
        for block in residual.chunks_mut(self.plan.rows() * c.dim) {
            let rows = block.len() / c.dim;
            let norm = &mut buffers.work.norm[..rows * c.dim]; // [rows, dim]
            if to_bf16 {
                // Rounded tile by tile: in f32 it is the largest buffer, too large for L2 in ViT-B.
                let x = self.norm_for(block, layer.norm, &layer.up.weight, norm, &mut buffers.rows);
                let hidden = &mut bytemuck::cast_slice_mut(buffers.work.wide)[..rows * bf16_len(c.mlp_dim)];
                self.linear_to_bf16(Stage::Up, x, layer.up, c.activation, hidden);
                self.linear(Stage::Down, &*hidden, layer.down, onto, norm, block);
                continue;
            }
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
            let x = self.activations(hidden, &layer.down.weight, &mut buffers.rows);
            self.linear(Stage::Down, x, layer.down, onto, norm, block);
        }
    }
}
