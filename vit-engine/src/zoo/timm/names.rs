//! The tensor names of timm, which are almost the same in all classes.
use super::super::hf::{self, none};
use super::super::{Names, Place, View};
use crate::config::Config;
use crate::parameters::{LayerSite, Param, Part, PoolSite, Site};

/// The tensor names of a model. The fields are the differences between classes.
pub(super) struct TimmNames {
    pub(super) config: Config,
    /// The prefix of every name.
    pub(super) prefix: String,
    pub(super) qkv: Qkv,
    /// Whether rotary positions rotate pairs of neighbours.
    pub(super) pairs: bool,
    /// Whether gate and up are in one tensor.
    pub(super) packed: bool,
    /// The names of the two layer scales.
    pub(super) scales: [&'static str; 2],
    /// Whether each layer has a table of relative biases, and whether all layers share one.
    pub(super) biases: [bool; 2],
}

/// How the tensors of queries, keys and values are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Qkv {
    /// Weights in one tensor, biases in one tensor.
    Fused,
    /// Weights in one tensor; the biases of queries and of values in separate ones.
    FusedApartFromBiases,
    /// Each in its own tensors.
    Apart,
}

impl TimmNames {
    pub(super) fn new(config: Config, prefix: &str) -> Self {
        let scales = ["ls1.gamma", "ls2.gamma"];
        Self { config, prefix: prefix.into(), qkv: Qkv::Fused, pairs: false, packed: false, scales, biases: [false; 2] }
    }

    /// The place of the queries, keys or values (`index` 0, 1, 2).
    fn attention(&self, param: Param, shape: [usize; 2], attention: &str, index: usize) -> Place {
        let fused = || Place::module(param, shape, format!("{attention}qkv")).part(index, 3);
        match (self.qkv, param.part) {
            (Qkv::Fused, _) | (Qkv::FusedApartFromBiases, Part::Weight) => fused(),
            (Qkv::FusedApartFromBiases, Part::Bias) => {
                let tensor = format!("{attention}{}", ["q_bias", "k_bias", "v_bias"][index]);
                Place { tensor, ..Place::module(param, shape, "") }
            }
            (Qkv::Apart, _) => {
                Place::module(param, shape, format!("{attention}{}", ["q_proj", "k_proj", "v_proj"][index]))
            }
        }
    }

    fn layer(&self, param: Param, shape: [usize; 2], index: usize, site: LayerSite) -> Place {
        let block = |name: &str| format!("{}blocks.{index}.{name}", self.prefix);
        let module = |name: &str| Place::module(param, shape, block(name));
        let attention = |index| self.attention(param, shape, &block("attn."), index);
        let view = if self.pairs { View::PairsToHalves { head_dim: self.config.head_dim } } else { View::Rows };
        match site {
            LayerSite::AttentionNorm => module("norm1"),
            LayerSite::Query => attention(0).view(view),
            LayerSite::Key => attention(1).view(view),
            LayerSite::Value => attention(2),
            LayerSite::QueryNorm => module("attn.q_norm").view(view),
            LayerSite::KeyNorm => module("attn.k_norm").view(view),
            LayerSite::RelativeBias => {
                let [heads, biases] = shape;
                let own = self.biases[0].then(|| block("attn."));
                let shared = self.biases[1].then(|| format!("{}rel_pos_bias.", self.prefix));
                let mut tables = own.into_iter().chain(shared).map(|within| within + "relative_position_bias_table");
                let table = Place::tensor([biases, heads], tables.next().unwrap_or_default());
                Place { plus: tables.next(), ..table.view(View::Transposed) }
            }
            LayerSite::ContextNorm => module("attn.norm"),
            LayerSite::Out => module("attn.proj"),
            LayerSite::AttentionScale => Place::tensor(shape, block(self.scales[0])),
            LayerSite::MlpNorm => module("norm2"),
            LayerSite::Gate if self.packed => module("mlp.fc1").part(0, 2),
            LayerSite::Up if self.packed => module("mlp.fc1").part(1, 2),
            LayerSite::Gate => module("mlp.fc1_g"),
            LayerSite::Up if self.config.gated => module("mlp.fc1_x"),
            LayerSite::Up => module("mlp.fc1"),
            LayerSite::HiddenNorm => module("mlp.norm"),
            LayerSite::Down => module("mlp.fc2"),
            LayerSite::MlpScale => Place::tensor(shape, block(self.scales[1])),
        }
    }
}

impl Names for TimmNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: &str| Place::module(param, shape, own(name));
        match param.site {
            Site::Patch => module("patch_embed.proj").convolution(param, &self.config),
            Site::EmbedNorm => module("patch_embed.norm"),
            Site::ClassToken => Place::tensor(shape, own("cls_token")),
            Site::DistillationToken => Place::tensor(shape, own("dist_token")),
            Site::Registers => Place::tensor(shape, own("reg_token")),
            Site::Positions => Place::tensor(shape, own("pos_embed")),
            Site::PreNorm => module("norm_pre"),
            Site::Layer(index, site) => self.layer(param, shape, index, site),
            Site::FinalNorm => module("norm"),
            Site::HeadNorm => module("fc_norm"),
            Site::Head => module("head"),
            Site::DistillationHead => module("head_dist"),
            Site::Pool(PoolSite::Probe) => Place::tensor(shape, own("attn_pool.latent")),
            Site::Pool(PoolSite::Query) => module("attn_pool.q"),
            Site::Pool(PoolSite::Key) => module("attn_pool.kv").part(0, 2),
            Site::Pool(PoolSite::Value) => module("attn_pool.kv").part(1, 2),
            Site::Pool(PoolSite::Out) => module("attn_pool.proj"),
            Site::Pool(PoolSite::Norm) => module("attn_pool.norm"),
            Site::Pool(PoolSite::Up) => module("attn_pool.mlp.fc1"),
            Site::Pool(PoolSite::Down) => module("attn_pool.mlp.fc2"),
            Site::PatchNorm | Site::Projection | Site::Rope => module(&none(param.site)),
        }
    }

    /// Tensors that timm ignores too.
    fn ignores(&self, tensor: &str) -> bool {
        hf::ignores(tensor) || tensor.contains("rope.")
    }
}
