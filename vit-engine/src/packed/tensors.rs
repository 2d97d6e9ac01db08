//! The tensors of a packed file: one for each part of the engine's block of weights, in the same order.
use core::fmt::{self, Write};

use vit_kernels::{Format, LANES};

use super::PackedError;
use super::gguf::Gguf;
use crate::config::Config;
use crate::parameters::{Entry, PoolSite, Site};
use crate::weights::{Slot, WeightLayout};

/// A tensor of the table.
pub(super) struct Tensor {
    entry: Entry<Site>,
    /// The last part of its name.
    role: &'static str,
    /// Dimensions, innermost first, filled up to four with 1.
    pub(super) dims: [usize; 4],
    /// GGML's number for the element type.
    pub(super) kind: u32,
    /// The start of the tensor in the data section, which is also its offset in the engine's block of weights.
    pub(super) offset: usize,
}

const WEIGHT: &str = "weight";
/// The scales of quantised weights.
const SCALE: &str = "scale";
/// The sums of quantised weights.
const SUM: &str = "sum";
const BIAS: &str = "bias";

/// GGML's number for i32.
const I32: u32 = 26;

/// Calls `visit` with every tensor, in memory order.
pub(super) fn for_each<E>(
    layout: &WeightLayout,
    config: &Config,
    mut visit: impl FnMut(&Tensor) -> Result<(), E>,
) -> Result<(), E> {
    let floats = Format::F32.ggml_type();
    let mut slot = |base: usize, Slot { entry, format, offset, bias }: Slot| {
        let mut tensor = |role, dims, kind, offset| visit(&Tensor { entry, role, dims, kind, offset: base + offset });
        match entry {
            Entry::Rows { rows, cols, .. } => tensor(WEIGHT, [cols, rows, 1, 1], floats, offset)?,
            Entry::Norm { len, .. } => tensor(WEIGHT, vector(len), floats, offset)?,
            Entry::Linear { .. } | Entry::KeysValues { .. } => {
                let [n, k] = entry.matrix_shape();
                tensor(WEIGHT, panels(format, n, k), format.ggml_type(), offset)?;
                let (outputs, scales) = (n.next_multiple_of(LANES), offset + format.panel_bytes(n, k).unwrap_or(0));
                match format {
                    Format::Int8 => {
                        tensor(SCALE, vector(outputs), floats, scales)?;
                        tensor(SUM, vector(outputs), I32, scales + outputs * size_of::<f32>())?;
                    }
                    Format::Int4 => {
                        let dims = [LANES, k.div_ceil(Format::INT4_GROUP), n.div_ceil(LANES), 1];
                        tensor(SCALE, dims, Format::F16.ggml_type(), scales)?;
                    }
                    _ => {}
                }
            }
        }
        entry.bias_len().map_or(Ok(()), |len| tensor(BIAS, vector(len), floats, bias))
    };
    layout.before(config).try_for_each(|part| slot(0, part))?;
    for index in 0..config.depth {
        layout.layer(config, index).try_for_each(|part| slot(0, part))?;
    }
    layout.after(config).try_for_each(|part| slot(0, part))?;
    layout.tables(config).try_for_each(|part| slot(layout.tables_start, part))
}

fn vector(len: usize) -> [usize; 4] {
    [len, 1, 1, 1]
}

/// The dimensions of a packed matrix, innermost first: \[elements of a group\], 16 outputs of a panel, groups of
/// inputs, panels.
fn panels(format: Format, n: usize, k: usize) -> [usize; 4] {
    let (group, panels) = (format.group(), n.div_ceil(LANES));
    if group == 1 { [LANES, k, panels, 1] } else { [format.group_elements(), LANES, k.div_ceil(group), panels] }
}

/// Checks that the table of the file is the one that the layout implies.
pub(super) fn check(file: &Gguf<'_>, layout: &WeightLayout, config: &Config) -> Result<(), PackedError> {
    let (mut found, mut index) = (file.tensors, 0);
    for_each(layout, config, |expected| {
        if index == file.tensor_count {
            return Err(PackedError::Tensor(index));
        }
        let tensor = found.tensor()?;
        let same = is_text_of(tensor.name, expected)
            && tensor.dims == expected.dims.map(|size| size as u64)
            && tensor.kind == expected.kind
            && tensor.offset == expected.offset as u64;
        if !same {
            return Err(PackedError::Tensor(index));
        }
        index += 1;
        Ok(())
    })?;
    if index == file.tensor_count { Ok(()) } else { Err(PackedError::Tensor(index)) }
}

/// A `Write` that compares: holds the rest of the text after everything written so far has matched.
struct Same<'a>(&'a [u8]);

/// Whether `text` equals what `value` displays, without allocating.
fn is_text_of(text: &[u8], value: &impl fmt::Display) -> bool {
    let mut rest = Same(text);
    write!(rest, "{value}").is_ok() && rest.0.is_empty()
}

impl Write for Same<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part.as_bytes()).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// The name of the tensor, such as `blk.3.attn_q.weight`.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.entry.site() {
            Site::PatchNorm => "patch_norm",
            Site::Patch => "patch_embd",
            Site::EmbedNorm => "embd_norm",
            Site::ClassToken => "class_embd",
            Site::DistillationToken => "distillation_embd",
            Site::Registers => "register_embd",
            Site::PreNorm => "pre_norm",
            Site::Layer(index, site) => {
                write!(f, "blk.{index}.")?;
                site.name()
            }
            Site::FinalNorm => "final_norm",
            Site::Pool(site) => pool_name(site),
            Site::HeadNorm => "head_norm",
            Site::Projection => "projection",
            Site::Head => "head",
            Site::DistillationHead => "distillation_head",
            Site::Positions => "position_embd",
            Site::Rope => "rope",
        };
        write!(f, "{name}.{}", self.role)
    }
}

fn pool_name(site: PoolSite) -> &'static str {
    match site {
        PoolSite::Probe => "pool.probe",
        PoolSite::Query => "pool.q",
        PoolSite::Key | PoolSite::Value => "pool.kv",
        PoolSite::Out => "pool.out",
        PoolSite::Norm => "pool.norm",
        PoolSite::Up => "pool.ffn_up",
        PoolSite::Down => "pool.ffn_down",
    }
}
