//! What Python is told of a model, and of a forward pass before it runs.
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use vit_engine::file::Loaded;

/// The hyper-parameters of a model.
#[pyclass(module = "vit_engine", frozen, eq, get_all)]
#[derive(PartialEq)]
pub(crate) struct Config {
    /// Height and width of the images, in pixels.
    image_size: (usize, usize),
    /// Height and width of a patch, in pixels.
    patch_size: (usize, usize),
    /// Channels of the images.
    channels: usize,
    /// Width of a token.
    dim: usize,
    /// Number of layers.
    depth: usize,
    /// Number of attention heads.
    heads: usize,
    /// Width of a head.
    head_dim: usize,
    /// Width of the feed-forward's hidden layer.
    mlp_dim: usize,
    /// Number of classes; 0 for a model without a head.
    classes: usize,
    /// Number of tokens of an image, with the class token and registers.
    tokens: usize,
    /// Number of patches of an image.
    patches: usize,
    /// Number of registers.
    registers: usize,
    /// Whether there is a class token.
    class_token: bool,
    /// Width of 'embedding'; None if the model has none.
    embedding_dim: Option<usize>,
    /// How the weight matrices are stored: 'f32', 'f16', 'bf16', 'int8' or 'int4'.
    precision: &'static str,
    /// Bytes of the weights.
    weight_bytes: usize,
}

impl Config {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let c = loaded.config();
        Self {
            image_size: c.image.into(),
            patch_size: c.patch.into(),
            channels: c.channels,
            dim: c.dim,
            depth: c.depth,
            heads: c.heads,
            head_dim: c.head_dim,
            mlp_dim: c.mlp_dim,
            classes: c.classes,
            tokens: c.tokens(),
            patches: c.patches(),
            registers: c.registers,
            class_token: c.class_token,
            embedding_dim: c.embedding_len(),
            precision: loaded.precision().name(),
            weight_bytes: loaded.weights().len(),
        }
    }
}

#[pymethods]
impl Config {
    fn __repr__(&self) -> String {
        let Self { image_size, patch_size, dim, depth, heads, classes, precision, .. } = self;
        format!(
            "Config(image_size={image_size:?}, patch_size={patch_size:?}, dim={dim}, depth={depth}, heads={heads}, \
             classes={classes}, precision='{precision}')"
        )
    }
}

/// What a forward pass needs. The bytes are exact.
#[pyclass(module = "vit_engine", frozen, get_all)]
pub(crate) struct Plan {
    /// Images in the batch.
    batch: usize,
    /// Bytes of working memory. They do not grow with the batch beyond what is fastest.
    arena_bytes: usize,
    /// Bytes of the weights.
    weight_bytes: usize,
    /// Multiply-accumulates of the pass.
    macs: u64,
    /// Images that are computed at a time.
    images_in_flight: usize,
    /// Rows (tokens) that are computed at a time.
    rows_per_block: usize,
    /// Shape of the result.
    output_shape: Py<PyTuple>,
}

impl Plan {
    pub(crate) fn of(py: Python<'_>, plan: &vit_engine::Plan, loaded: &Loaded) -> PyResult<Self> {
        let mut shape = vec![plan.batch()];
        shape.extend(plan.output().shape(plan.config()));
        Ok(Self {
            batch: plan.batch(),
            arena_bytes: plan.arena_bytes(),
            weight_bytes: loaded.weights().len(),
            macs: plan.macs(),
            images_in_flight: plan.images(),
            rows_per_block: plan.rows(),
            output_shape: PyTuple::new(py, shape)?.unbind(),
        })
    }
}

#[pymethods]
impl Plan {
    fn __repr__(&self) -> String {
        let Self { batch, arena_bytes, weight_bytes, macs, .. } = self;
        format!("Plan(batch={batch}, arena_bytes={arena_bytes}, weight_bytes={weight_bytes}, macs={macs})")
    }
}
