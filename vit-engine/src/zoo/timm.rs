//! timm's plain Vision Transformer (`timm.models.vision_transformer`), with the `config.json` that timm writes.
//!
//! `architecture` names the defaults, which timm keeps in its code; `model_args` override them. A patch is flattened as
//! (channel, row, column), LayerNorm's eps is 1e-6, GELU is exact. With `global_pool` 'avg' the patch tokens alone are
//! averaged, and the norm comes after the pooling (`fc_norm`) instead of before it.
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Gelu;

use super::{Names, Place, Recipe, Size, ZooError, fields};
use crate::config::{Biases, Config, PatchOrder, Pool};
use crate::weights::{LayerSite, Param, Part, Site};

/// What an architecture's name stands for: dim, depth, heads, patch size, image size.
type Defaults = (&'static str, usize, usize, usize, usize, usize);

const ARCHITECTURES: [Defaults; 17] = [
    ("vit_tiny_patch16_224", 192, 12, 3, 16, 224),
    ("vit_tiny_patch16_384", 192, 12, 3, 16, 384),
    ("vit_small_patch32_224", 384, 12, 6, 32, 224),
    ("vit_small_patch32_384", 384, 12, 6, 32, 384),
    ("vit_small_patch16_224", 384, 12, 6, 16, 224),
    ("vit_small_patch16_384", 384, 12, 6, 16, 384),
    ("vit_small_patch8_224", 384, 12, 6, 8, 224),
    ("vit_base_patch32_224", 768, 12, 12, 32, 224),
    ("vit_base_patch32_384", 768, 12, 12, 32, 384),
    ("vit_base_patch16_224", 768, 12, 12, 16, 224),
    ("vit_base_patch16_384", 768, 12, 12, 16, 384),
    ("vit_base_patch8_224", 768, 12, 12, 8, 224),
    ("vit_large_patch32_384", 1024, 24, 16, 32, 384),
    ("vit_large_patch16_224", 1024, 24, 16, 16, 224),
    ("vit_large_patch16_384", 1024, 24, 16, 16, 384),
    ("vit_large_patch14_224", 1024, 24, 16, 14, 224),
    ("vit_huge_patch14_224", 1280, 32, 16, 14, 224),
];

/// The names of the architectures whose defaults are known.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|row| row.0)
}

/// The config of an architecture, with timm's defaults: 1,000 classes, three channels, class token.
pub fn architecture(name: &str) -> Option<Config> {
    let &(_, dim, depth, heads, patch, image) = ARCHITECTURES.iter().find(|row| row.0 == name)?;
    Some(Config {
        channels: 3,
        image: [image, image],
        patch: [patch, patch],
        patch_order: PatchOrder::ChannelRowColumn,
        patch_norm: false,
        embed_norm: false,
        class_token: true,
        dim,
        depth,
        heads,
        head_dim: dim / heads,
        mlp_dim: 4 * dim,
        out_proj: true,
        bias: Biases { patch: true, qkv: true, out: true, mlp: true, head: true },
        attention_scale: 1.0 / ((dim / heads) as f32).sqrt(),
        activation: Gelu::Erf,
        norm_eps: 1e-6,
        final_norm: true,
        pool: Pool::Class,
        head_norm: false,
        classes: 1000,
    })
}

/// `model_args`: what is here is honoured, what is not is an error, but for what only training needs.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ModelArgs {
    img_size: Option<Size>,
    patch_size: Option<Size>,
    in_chans: Option<usize>,
    num_classes: Option<usize>,
    global_pool: Option<String>,
    embed_dim: Option<usize>,
    depth: Option<usize>,
    num_heads: Option<usize>,
    mlp_ratio: Option<f64>,
    qkv_bias: Option<bool>,
    proj_bias: Option<bool>,
    class_token: Option<bool>,
    fc_norm: Option<bool>,
    #[serde(rename = "drop_rate")]
    _drop_rate: Option<Value>,
    #[serde(rename = "pos_drop_rate")]
    _pos_drop_rate: Option<Value>,
    #[serde(rename = "patch_drop_rate")]
    _patch_drop_rate: Option<Value>,
    #[serde(rename = "proj_drop_rate")]
    _proj_drop_rate: Option<Value>,
    #[serde(rename = "attn_drop_rate")]
    _attn_drop_rate: Option<Value>,
    #[serde(rename = "drop_path_rate")]
    _drop_path_rate: Option<Value>,
    #[serde(rename = "weight_init")]
    _weight_init: Option<Value>,
    #[serde(rename = "fix_init")]
    _fix_init: Option<Value>,
    #[serde(rename = "strict_img_size")]
    _strict_img_size: Option<Value>,
}

/// The fields beside `model_args`.
#[derive(Deserialize)]
struct Top {
    num_classes: Option<usize>,
    global_pool: Option<String>,
    #[serde(default)]
    model_args: Option<ModelArgs>,
}

pub(super) fn recipe(architecture_name: &str, config: &Value) -> Result<Recipe, ZooError> {
    // A tag ('.augreg_in21k_ft_in1k') names weights, not an architecture.
    let name = architecture_name.split('.').next().unwrap_or_default();
    let unsupported = || ZooError::Unsupported(format!("architecture '{architecture_name}'"));
    let mut c = architecture(name).ok_or_else(unsupported)?;
    let top: Top = fields(config)?;
    let args = top.model_args.unwrap_or_default();

    c.image = args.img_size.map_or(c.image, Size::height_width);
    c.patch = args.patch_size.map_or(c.patch, Size::height_width);
    c.channels = args.in_chans.unwrap_or(c.channels);
    c.classes = args.num_classes.or(top.num_classes).unwrap_or(c.classes);
    c.dim = args.embed_dim.unwrap_or(c.dim);
    c.depth = args.depth.unwrap_or(c.depth);
    c.heads = args.num_heads.unwrap_or(c.heads);
    if c.heads == 0 || !c.dim.is_multiple_of(c.heads) {
        return Err(ZooError::Field(format!("embed_dim {} is not a multiple of num_heads {}", c.dim, c.heads)));
    }
    c.head_dim = c.dim / c.heads;
    c.attention_scale = 1.0 / (c.head_dim as f32).sqrt();
    c.mlp_dim = (c.dim as f64 * args.mlp_ratio.unwrap_or(4.0)) as usize;
    c.bias.qkv = args.qkv_bias.unwrap_or(c.bias.qkv);
    (c.bias.out, c.bias.mlp) = args.proj_bias.map_or((true, true), |bias| (bias, bias));
    c.class_token = args.class_token.unwrap_or(c.class_token);
    let pool = args.global_pool.or(top.global_pool).unwrap_or_else(|| "token".into());
    c.pool = match &*pool {
        "token" => Pool::Class,
        "avg" => Pool::MeanPatches,
        other => return Err(ZooError::Field(format!("global_pool is '{other}'; supported are 'token' and 'avg'"))),
    };
    c.head_norm = args.fc_norm.unwrap_or(c.pool == Pool::MeanPatches);
    c.final_norm = !c.head_norm;
    Ok(Recipe { config: c, names: Box::new(Layout(c)), preprocessing: None, labels: Vec::new() })
}

struct Layout(Config);

impl Names for Layout {
    fn place(&self, Param { site, part }: Param) -> Place {
        let c = &self.0;
        let suffix = if part == Part::Weight { "weight" } else { "bias" };
        let place = |prefix: String, matrix: &[usize], first_row: usize| {
            let shape = if part == Part::Weight { matrix.to_vec() } else { vec![matrix[0]] };
            Place { tensor: format!("{prefix}.{suffix}"), shape, first_row }
        };
        let norm = |prefix: String| Place { tensor: format!("{prefix}.{suffix}"), shape: vec![c.dim], first_row: 0 };
        let whole = |name: &str, shape: [usize; 2]| Place { tensor: name.into(), shape: shape.to_vec(), first_row: 0 };
        match site {
            Site::Patch => place("patch_embed.proj".into(), &[c.dim, c.channels, c.patch[0], c.patch[1]], 0),
            Site::ClassToken => whole("cls_token", [1, c.dim]),
            Site::Positions => whole("pos_embed", [c.tokens(), c.dim]),
            Site::FinalNorm => norm("norm".into()),
            Site::HeadNorm => norm("fc_norm".into()),
            Site::Head => place("head".into(), &[c.classes, c.dim], 0),
            Site::Layer(index, site) => {
                let block = |name: &str| format!("blocks.{index}.{name}");
                match site {
                    LayerSite::AttentionNorm => norm(block("norm1")),
                    LayerSite::Query => place(block("attn.qkv"), &[3 * c.dim, c.dim], 0),
                    LayerSite::Key => place(block("attn.qkv"), &[3 * c.dim, c.dim], c.dim),
                    LayerSite::Value => place(block("attn.qkv"), &[3 * c.dim, c.dim], 2 * c.dim),
                    LayerSite::Out => place(block("attn.proj"), &[c.dim, c.dim], 0),
                    LayerSite::MlpNorm => norm(block("norm2")),
                    LayerSite::Up => place(block("mlp.fc1"), &[c.mlp_dim, c.dim], 0),
                    LayerSite::Down => place(block("mlp.fc2"), &[c.dim, c.mlp_dim], 0),
                }
            }
            // Its configs ask for neither; the name is that of timm's norm before the layers.
            Site::PatchNorm | Site::EmbedNorm => norm("norm_pre".into()),
        }
    }
}
