//! `timm.models.beit`: BEiT and BEiT v2 (Peng et al. 2022, <https://arxiv.org/abs/2208.06366>).
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Activation;

use super::super::{OtherSizes, Recipe, ZooError, fields};
use super::names::{Qkv, TimmNames};
use super::{Common, pool, read_out, truthy};
use crate::config::Positions;

/// The arguments of the constructor that not all classes have.
#[derive(Deserialize)]
struct Arguments {
    swiglu_mlp: bool,
    scale_mlp: bool,
    use_abs_pos_emb: bool,
    use_rel_pos_bias: bool,
    use_shared_rel_pos_bias: bool,
    use_fc_norm: Option<bool>,
}

pub(super) fn recipe(args: &Value, prefix: &str) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(args)?;
    let common: Common = fields(args)?;
    let mut c = common.config()?;
    (c.gated, c.hidden_norm) = (a.swiglu_mlp, a.scale_mlp);
    c.activation = if a.swiglu_mlp { Activation::Silu } else { Activation::Gelu };
    c.bias.key = false;
    c.positions = if a.use_abs_pos_emb { Positions::All } else { Positions::Absent };
    c.relative_bias = a.use_rel_pos_bias || a.use_shared_rel_pos_bias;
    c.layer_scale = truthy(&common.init_values);
    let norm_after = a.use_fc_norm.unwrap_or(common.global_pool == "avg");
    c.final_norm = !norm_after;
    read_out(&mut c, pool(&common.global_pool, false)?, norm_after);
    let other_sizes =
        if c.relative_bias { OtherSizes::NONE } else { OtherSizes { from_square: true, ..OtherSizes::TIMM } };
    let names = TimmNames {
        qkv: Qkv::FusedApartFromBiases,
        scales: ["gamma_1", "gamma_2"],
        biases: [a.use_rel_pos_bias, a.use_shared_rel_pos_bias],
        ..TimmNames::new(c, prefix)
    };
    Ok(Recipe::new(c, names, other_sizes))
}
