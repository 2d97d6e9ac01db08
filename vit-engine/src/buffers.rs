//! The buffers of a forward pass: their shapes, their total size, and how they are cut out of the arena.
//!
//! Each phase declares its buffers once, in the order of memory: name, element type, shape. From a declaration
//! `buffers!` makes a struct of slices with two functions. `bytes` adds up the sizes and is a `const fn`; `carve` cuts
//! the slices out of an arena, each at a multiple of 64 bytes.
//!
//! ```text
//! arena = PassBuffers, then a part that the phases use one after the other:
//!         EmbedBuffers | LayerBuffers | HeadBuffers and PoolBuffers
//! ```
use vit_kernels::half::bf16;
use vit_kernels::{Inputs, KvLayout, bf16_len, quantised_len};

use crate::arena::{padded_bytes, take};
use crate::config::{AttentionPool, Config, max};
use crate::weights::Precision;

macro_rules! buffers {
    ($(
        $(#[$doc:meta])*
        $phase:ident($($arg:ident: $type:ty),*) {
            $($(#[$note:meta])* $buffer:ident: $element:ty = $shape:expr,)*
        }
    )*) => {$(
        $(#[$doc])*
        pub(crate) struct $phase<'a> {
            $($(#[$note])* pub(crate) $buffer: &'a mut [$element],)*
        }

        impl<'a> $phase<'a> {
            /// Bytes of all these buffers; `None` on overflow.
            const fn bytes($($arg: $type),*) -> Option<usize> {
                let bytes = Some(0);
                $(let bytes = plus(bytes, padded_bytes::<$element>(&$shape));)*
                bytes
            }

            /// Calls `visit` with the name and the bytes of each buffer.
            fn for_each($($arg: $type,)* visit: &mut dyn FnMut(&'static str, usize)) {
                $(visit(stringify!($buffer), padded_bytes::<$element>(&$shape).unwrap_or(usize::MAX));)*
            }

            /// Cuts the buffers off the front of the arena; also returns the rest of the arena.
            pub(crate) fn carve($($arg: $type,)* mut arena: &'a mut [u8]) -> (Self, &'a mut [u8]) {
                (Self { $($buffer: take(&mut arena, &$shape),)* }, arena)
            }
        }
    )*};
}

// `images`: images in a group. `rows`: rows in a block.
buffers! {
    /// Used from the first phase to the last.
    PassBuffers(c: &Config, images: usize) {
        residual: f32 = [images, c.tokens(), c.dim],
    }

    /// Used by the embedding.
    EmbedBuffers(c: &Config, rows: usize) {
        /// The pixels of one row of patches.
        strip: f32 = [c.channels, c.patch[0], c.image[1]],
        patches: f32 = [rows, c.patch_len()],
        /// Normalised patches, if the model normalises them.
        normed: f32 = [if c.patch_norm { rows } else { 0 }, c.patch_len()],
        projected: f32 = [rows, c.dim],
    }

    /// The keys and values of a group's images, if the precision multiplies them in f32.
    KvBuffers(c: &Config, precision: Precision, images: usize) {
        /// One row per token: the keys of all heads, then the values of all heads; see `KvLayout`.
        kv: f32 = [if_inputs(precision, Inputs::F32, images), c.tokens(), 2 * c.inner()],
    }

    /// The keys and values of a group's images, if the precision multiplies them in bf16 or int8.
    NarrowKvBuffers(c: &Config, precision: Precision, images: usize) {
        /// See `Bf16Kv`.
        bf16_kv: bf16 = [if_inputs(precision, Inputs::Bf16, images), bf16_kv_len(c)],
        /// See `QuantisedKv`.
        int8_kv: i8 = [if_inputs(precision, Inputs::Int8, images), int8_kv_len(c)],
        kv_scales: f32 = [if_inputs(precision, Inputs::Int8, images), c.tokens(), 2 * c.heads],
    }

    /// Rows in f32, used by attention and by the feed-forward.
    WorkBuffers(c: &Config, precision: Precision, rows: usize) {
        /// In attention over int8 on cores without vectors, also the scratch of the scores.
        norm: f32 = [max(rows.saturating_mul(c.dim), attention_scratch(c, precision))],
        /// In attention, two buffers \[rows, inner\]: keys before and after their norm, later queries and context. Keys
        /// and values that will be rounded or quantised come first, before the keys. In the feed-forward, the hidden
        /// layer, followed by the normalised hidden layer if the model normalises it.
        wide: f32 = [rows, max(attention_width(c, precision), c.mlp_dim * if c.hidden_norm { 2 } else { 1 })],
    }

    /// The rows that a matrix is multiplied with, if the precision does not multiply f32.
    RowBuffers(c: &Config, precision: Precision, rows: usize) {
        rounded: bf16 = [if_inputs(precision, Inputs::Bf16, rows), bf16_len(widest(c))],
        quantised: i8 = [if_inputs(precision, Inputs::Int8, rows), quantised_len(widest(c))],
        row_scales: f32 = [if_inputs(precision, Inputs::Int8, rows)],
    }

    /// Used by the head.
    HeadBuffers(c: &Config, images: usize) {
        pooled: f32 = [images, pooled_width(c)],
        normed: f32 = [images, pooled_width(c)],
        /// A token after the final norm, and a second vector for pools that need two.
        row: f32 = [2, c.dim],
    }

    /// Used by the attention pool, together with the head's buffers.
    PoolBuffers(c: &Config, pool: &AttentionPool, images: usize, rows: usize) {
        /// Keys and values of one image's tokens.
        kv: f32 = [pool.tokens(c).end - pool.tokens(c).start, 2 * c.dim],
        norm: f32 = [rows, c.dim],
        query: f32 = [c.dim],
        context: f32 = [images, c.dim],
        hidden: f32 = [images, pool.mlp_dim],
    }
}

/// Used by every layer.
pub(crate) struct LayerBuffers<'a> {
    pub(crate) kv: KvBuffers<'a>,
    pub(crate) narrow_kv: NarrowKvBuffers<'a>,
    pub(crate) work: WorkBuffers<'a>,
    pub(crate) rows: RowBuffers<'a>,
}

impl<'a> LayerBuffers<'a> {
    const fn bytes(c: &Config, precision: Precision, images: usize, rows: usize) -> Option<usize> {
        let of_rows = plus(WorkBuffers::bytes(c, precision, rows), RowBuffers::bytes(c, precision, rows));
        let of_images = plus(KvBuffers::bytes(c, precision, images), NarrowKvBuffers::bytes(c, precision, images));
        plus(of_images, of_rows)
    }

    /// Cuts the buffers off the front of the arena; also returns the rest of the arena.
    pub(crate) fn carve(
        c: &Config,
        precision: Precision,
        images: usize,
        rows: usize,
        arena: &'a mut [u8],
    ) -> (Self, &'a mut [u8]) {
        let (kv, arena) = KvBuffers::carve(c, precision, images, arena);
        let (narrow_kv, arena) = NarrowKvBuffers::carve(c, precision, images, arena);
        let (work, arena) = WorkBuffers::carve(c, precision, rows, arena);
        let (rows, arena) = RowBuffers::carve(c, precision, rows, arena);
        (Self { kv, narrow_kv, work, rows }, arena)
    }
}

/// The exact bytes of arena that a forward pass needs with `images` images in a group and `rows` rows in a block.
///
/// It equals [`Plan::arena_bytes`] of [`Plan::with_blocks`], for a batch of at least `images`; it does not depend on
/// the [`Output`](crate::Output). `None` if a size of the config is 0 or too large, if the image is smaller than a
/// patch, if `images` or `rows` is 0, and on overflow.
///
/// It can be the length of a `static` arena, `Aligned<{ bytes(&CONFIG) }>`:
/// ```
/// use vit_engine::{Config, Precision, arena_bytes};
///
/// const fn bytes(config: &Config) -> usize {
///     arena_bytes(config, Precision::Int8, 1, 8).expect("the config is valid")
/// }
/// ```
///
/// [`Plan::arena_bytes`]: crate::Plan::arena_bytes
/// [`Plan::with_blocks`]: crate::Plan::with_blocks
pub const fn arena_bytes(config: &Config, precision: Precision, images: usize, rows: usize) -> Option<usize> {
    if config.validate_sizes().is_err() || images == 0 || rows == 0 {
        return None;
    }
    let Some(all_rows) = images.checked_mul(config.tokens()) else { return None };
    let rows = if rows < all_rows { rows } else { all_rows };
    let pool = match &config.attention_pool {
        Some(pool) => PoolBuffers::bytes(config, pool, images, rows),
        None => Some(0),
    };
    let embed = EmbedBuffers::bytes(config, rows);
    let layers = LayerBuffers::bytes(config, precision, images, rows);
    let head = plus(HeadBuffers::bytes(config, images), pool);
    match (embed, layers, head) {
        (Some(embed), Some(layers), Some(head)) => {
            plus(PassBuffers::bytes(config, images), Some(max(embed, max(layers, head))))
        }
        _ => None,
    }
}

/// A part of the forward pass, by the buffers that it uses. The embedding, the layers and the head use the same part of
/// the arena, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The whole pass.
    Pass,
    /// Pixels to tokens.
    Embed,
    /// Attention and feed-forward.
    Layers,
    /// Tokens to features.
    Head,
}

/// Calls `visit` with the phase, the name and the bytes of each buffer of a pass.
pub(crate) fn for_each_buffer(
    c: &Config,
    precision: Precision,
    images: usize,
    rows: usize,
    visit: &mut dyn FnMut(Phase, &'static str, usize),
) {
    PassBuffers::for_each(c, images, &mut |name, bytes| visit(Phase::Pass, name, bytes));
    EmbedBuffers::for_each(c, rows, &mut |name, bytes| visit(Phase::Embed, name, bytes));
    let mut layers = |name, bytes| visit(Phase::Layers, name, bytes);
    KvBuffers::for_each(c, precision, images, &mut layers);
    NarrowKvBuffers::for_each(c, precision, images, &mut layers);
    WorkBuffers::for_each(c, precision, rows, &mut layers);
    RowBuffers::for_each(c, precision, rows, &mut layers);
    let mut head = |name, bytes| visit(Phase::Head, name, bytes);
    HeadBuffers::for_each(c, images, &mut head);
    if let Some(pool) = &c.attention_pool {
        PoolBuffers::for_each(c, pool, images, rows, &mut head);
    }
}

/// The layout of the keys and values of one image.
pub(crate) const fn kv_layout(c: &Config) -> KvLayout {
    KvLayout { heads: c.heads, head_dim: c.head_dim, tokens: c.tokens() }
}

/// Elements that attention takes of a row of `wide`.
const fn attention_width(c: &Config, precision: Precision) -> usize {
    let both = 2 * c.inner();
    if c.qk_norm && !matches!(precision.inputs(), Inputs::F32) { 2 * both } else { both }
}

/// Elements of the scratch that attention of one query takes, at least.
const fn attention_scratch(c: &Config, precision: Precision) -> usize {
    match kv_layout(c).scratch_len(1) {
        Some(len) => if_inputs(precision, Inputs::Int8, len),
        None => usize::MAX,
    }
}

/// Bytes of an image's keys and values in int8; `usize::MAX` on overflow.
const fn int8_kv_len(c: &Config) -> usize {
    match kv_layout(c).int8_len() {
        Some(len) => len,
        None => usize::MAX,
    }
}

/// Elements of an image's keys and values in bf16; `usize::MAX` on overflow.
const fn bf16_kv_len(c: &Config) -> usize {
    match kv_layout(c).bf16_len() {
        Some(len) => len,
        None => usize::MAX,
    }
}

/// Inputs of the layers' widest matrix.
const fn widest(c: &Config) -> usize {
    max(max(c.dim, c.inner()), c.mlp_dim)
}

/// `count`, or 0 for a precision that multiplies others than `inputs`.
const fn if_inputs(precision: Precision, inputs: Inputs, count: usize) -> usize {
    if precision.inputs() as u8 == inputs as u8 { count } else { 0 }
}

/// Elements that a readout pools from one image: the larger number if embedding and logits differ.
const fn pooled_width(c: &Config) -> usize {
    let logits = c.logits.pool.width(c.dim);
    match c.embedding {
        Some(embedding) => max(embedding.pool.width(c.dim), logits),
        None => logits,
    }
}

const fn plus(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => a.checked_add(b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use vit_kernels::Activation;

    use super::*;
    use crate::arena::{ALIGN, Aligned};
    use crate::config::{Biases, PatchOrder, Pool, Positions, Readout};
    use crate::output::Output;
    use crate::plan::Plan;
    use crate::testing::tiny;

    /// A model with every part that needs arena.
    const CONFIG: Config = Config {
        channels: 2,
        image: [20, 29],
        patch: [5, 7],
        patch_order: PatchOrder::ChannelRowColumn,
        patch_norm: true,
        embed_norm: true,
        class_token: true,
        distillation_token: false,
        registers: 3,
        positions: Positions::All,
        pre_norm: true,
        dim: 36,
        depth: 2,
        heads: 3,
        head_dim: 14,
        attention_scale: 0.25,
        qk_norm: true,
        rope: false,
        relative_bias: false,
        context_norm: true,
        out_proj: true,
        layer_scale: true,
        mlp_dim: 50,
        gated: true,
        hidden_norm: true,
        activation: Activation::Gelu,
        bias: Biases::all(true),
        norm_eps: 1e-6,
        final_norm: true,
        attention_pool: Some(AttentionPool { heads: 4, mlp_dim: 41, all_tokens: false }),
        embedding: Some(Readout { pool: Pool::ClassThenMeanPatches, norm: true }),
        projection: 0,
        logits: Readout { pool: Pool::Attention, norm: false },
        distillation_head: false,
        classes: 11,
    };

    #[test]
    fn bytes_are_known_at_compile_time() {
        const BYTES: usize = arena_bytes(&CONFIG, Precision::F32, 2, 7).expect("the config is valid");
        static ARENA: Aligned<BYTES> = Aligned([0; BYTES]);
        let plan = |images, rows| {
            Plan::with_blocks(&CONFIG, Precision::F32, Output::Logits, 5, images, rows).unwrap().arena_bytes()
        };
        assert_eq!(ARENA.0.len(), plan(2, 7));
        assert_eq!(arena_bytes(&CONFIG, Precision::F32, 3, usize::MAX), Some(plan(3, 3 * CONFIG.tokens())));
        assert_eq!(
            arena_bytes(&CONFIG, Precision::F32, 1, 1),
            Plan::minimum_bytes(&CONFIG, Precision::F32, Output::Patches, 9).ok()
        );
    }

    #[test]
    fn what_has_no_bytes() {
        let no_patch = Config { patch: [0, 7], ..CONFIG };
        let huge = Config { image: [1 << 12; 2], patch: [1; 2], ..CONFIG };
        for (config, images, rows) in [(CONFIG, 0, 1), (CONFIG, 1, 0), (no_patch, 1, 1), (CONFIG, usize::MAX, 1)] {
            assert_eq!(arena_bytes(&config, Precision::F32, images, rows), None);
        }
        assert_eq!(arena_bytes(&huge, Precision::F32, usize::MAX >> 25, 1), None);
    }

    #[test]
    fn the_largest_phase_fills_the_arena() {
        let head = AttentionPool { heads: 1, mlp_dim: 5000, all_tokens: true };
        for config in [CONFIG, tiny(), Config { attention_pool: Some(head), ..CONFIG }, Config { mlp_dim: 1, ..CONFIG }]
        {
            for (precision, images, rows) in
                [1, 3].into_iter().flat_map(|n| Precision::ALL.map(|p| [(p, n, 1), (p, n, 5), (p, n, 40)])).flatten()
            {
                let rows = rows.min(images * config.tokens());
                let mut memory = Aligned([0; 1 << 17]);
                let arena = &mut memory.0[..arena_bytes(&config, precision, images, rows).unwrap()];
                let (_, arena) = PassBuffers::carve(&config, images, arena);
                let embed = EmbedBuffers::carve(&config, rows, arena).1.len();
                let layers = LayerBuffers::carve(&config, precision, images, rows, arena).1.len();
                let (_, mut rest) = HeadBuffers::carve(&config, images, arena);
                if let Some(pool) = &config.attention_pool {
                    rest = PoolBuffers::carve(&config, pool, images, rows, rest).1;
                }
                assert_eq!(embed.min(layers).min(rest.len()), 0);
            }
        }
    }

    #[test]
    fn buffers_add_up_to_the_arena() {
        for precision in Precision::ALL {
            let mut bytes = [0; 4];
            for_each_buffer(&CONFIG, precision, 2, 7, &mut |phase, _, more| bytes[phase as usize] += more);
            let [pass, embed, layers, head] = bytes;
            assert_eq!(arena_bytes(&CONFIG, precision, 2, 7), Some(pass + embed.max(layers).max(head)));
        }
    }

    buffers! {
        MixedBuffers(rows: usize) {
            codes: i8 = [rows, 13],
            scales: f32 = [rows],
            sums: i32 = [rows, 2],
        }
    }

    #[test]
    fn buffers_of_any_type_are_aligned_and_apart() {
        const BYTES: usize = MixedBuffers::bytes(5).unwrap();
        assert_eq!(BYTES, 2 * ALIGN + ALIGN + ALIGN);
        let mut memory = Aligned([0; BYTES + ALIGN]);
        let (MixedBuffers { codes, scales, sums }, rest) = MixedBuffers::carve(5, &mut memory.0);
        assert_eq!((codes.len(), scales.len(), sums.len(), rest.len()), (65, 5, 10, ALIGN));
        let mut named = [("", 0); 3];
        let mut at = named.iter_mut();
        MixedBuffers::for_each(5, &mut |name, bytes| *at.next().unwrap() = (name, bytes));
        assert_eq!(named, [("codes", 2 * ALIGN), ("scales", ALIGN), ("sums", ALIGN)]);
        let starts = [codes.as_ptr().addr(), scales.as_ptr().addr(), sums.as_ptr().addr(), rest.as_ptr().addr()];
        assert_eq!(starts.map(|start| start - starts[0]), [0, 2 * ALIGN, 3 * ALIGN, 4 * ALIGN]);
    }
}
