//! Guesses the family of a checkpoint from its tensors, for configs that do not state it.
use serde_json::Value;

use super::{Catalog, ZooError, timm};

/// The `model_type` for a config that has transformers' size fields but no `model_type`.
///
/// # Errors
/// If the tensors match no family or several architectures, or the sizes are missing. The error says what to do.
pub(super) fn family(config: &Value, tensors: &dyn Catalog) -> Result<&'static str, ZooError> {
    told(config, tensors)
        .map_err(|hint| ZooError::NoFamily(format!("neither 'model_type' nor 'architecture' is given; {hint}")))
}

/// The family, or a text that says what to do.
fn told(config: &Value, tensors: &dyn Catalog) -> Result<&'static str, String> {
    let any = |part: &str| tensors.names().any(|name| name.contains(part));
    if any("blocks.0.") && any("patch_embed.") {
        return Err(of_timm(tensors));
    }
    if any("transformer.layers.0.0.") {
        return Err(
            "this looks like vit-pytorch: write its constructor's arguments into config.json, with \"model_type\": \
             \"vit-pytorch\""
                .into(),
        );
    }
    let family = if any("pre_layrnorm.") {
        "clip_vision_model"
    } else if any("visual.transformer.resblocks.") || any("visual.trunk.") {
        "open_clip"
    } else if any("embeddings.position_embedding.") {
        "siglip_vision_model"
    } else if any("embeddings.patch_embeddings.weight") {
        "dinov3_vit"
    } else if any("lambda_1") || any("relative_position_bias_table") {
        "beit"
    } else if any("layer_scale1.") {
        if any("register_tokens") { "dinov2_with_registers" } else { "dinov2" }
    } else if any("distillation_token") {
        "deit"
    } else if any("layernorm_before.") {
        // MAE's encoder has the same tensors as ViT, and the same meaning.
        "vit"
    } else {
        return Err("the tensors are no family's that is known here; put the model's own config.json beside the \
                    weights, or name the family with --as"
            .into());
    };
    if config.get("hidden_size").is_some() || config.get("vision_config").is_some() {
        return Ok(family);
    }
    let file = if family == "open_clip" { "open_clip_config.json" } else { "config.json" };
    Err(format!(
        "by its tensors this is a '{family}', but the heads, eps and activation do not show in tensors: put the model's \
         own {file} beside the weights"
    ))
}

/// What to do about timm's tensors without an architecture: lists the architectures with this width, depth and patch
/// size.
fn of_timm(tensors: &dyn Catalog) -> String {
    let shape = tensors.shape("patch_embed.proj.weight").unwrap_or_default();
    let [dim, channels, height, width] = *shape else {
        return "this looks like a timm model: state its architecture with --as or in config.json".into();
    };
    let depth = (0..).take_while(|index| tensors.has(&format!("blocks.{index}.norm1.weight"))).count();
    let fits = |name: &&str| {
        timm::architecture(name).is_ok_and(|c| {
            (c.dim, c.depth, c.patch) == (dim, depth, [height, width])
                && c.class_token == tensors.has("cls_token")
                && (c.registers > 0) == tensors.has("reg_token")
        })
    };
    let fitting: Vec<_> = timm::architectures().filter(fits).take(12).collect();
    let which = match &*fitting {
        [] => "; no known architecture fits".to_owned(),
        some => format!(", one of {}", some.join(", ")),
    };
    format!(
        "this looks like a model of timm's of {dim} channels, {depth} blocks, patches of {height}×{width} and {channels} \
         colours: name its architecture with --as NAME, or in config.json as \"architecture\"{which}"
    )
}
