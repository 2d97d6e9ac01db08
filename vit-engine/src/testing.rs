//! What the tests of this crate share.
use vit_kernels::Gelu;

use crate::config::{Biases, Config, PatchOrder, Pool};

/// A small model in which no two sizes are equal.
pub(crate) fn tiny() -> Config {
    Config {
        channels: 3,
        image: [12, 20],
        patch: [6, 4],
        patch_order: PatchOrder::ChannelRowColumn,
        patch_norm: false,
        embed_norm: false,
        class_token: true,
        dim: 24,
        depth: 2,
        heads: 3,
        head_dim: 10,
        mlp_dim: 40,
        out_proj: true,
        bias: Biases { patch: true, qkv: true, out: true, mlp: true, head: true },
        attention_scale: 0.3,
        activation: Gelu::Erf,
        norm_eps: 1e-6,
        final_norm: true,
        pool: Pool::Class,
        head_norm: false,
        classes: 7,
    }
}
