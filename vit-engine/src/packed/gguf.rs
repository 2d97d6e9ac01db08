//! Reads GGUF v3 (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): header, metadata, table of tensors.
//!
//! Every function is a `const fn` over bytes. So nothing is copied or allocated, and a program can compute sizes at
//! compile time. Numbers are little-endian.
use super::PackedError;

/// The first bytes of every file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// The version of GGUF that is read and written.
pub(super) const VERSION: u32 = 3;

/// The numbers of the metadata types in files.
pub(crate) mod kind {
    pub(crate) const U32: u32 = 4;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const F64: u32 = 12;
}

/// The `?` operator for a `const fn`.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Err(error),
        }
    };
}
pub(super) use attempt;

/// The rest of a file while it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    const fn take(&mut self, len: usize) -> Result<&'a [u8], PackedError> {
        match self.0.split_at_checked(len) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(PackedError::Truncated),
        }
    }

    const fn array<const N: usize>(&mut self) -> Result<[u8; N], PackedError> {
        match self.0.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(*taken)
            }
            None => Err(PackedError::Truncated),
        }
    }

    pub(super) const fn u32(&mut self) -> Result<u32, PackedError> {
        Ok(u32::from_le_bytes(attempt!(self.array())))
    }

    pub(crate) const fn f32(&mut self) -> Result<f32, PackedError> {
        Ok(f32::from_le_bytes(attempt!(self.array())))
    }

    /// A u64 that is a size in memory.
    const fn size(&mut self) -> Result<usize, PackedError> {
        let size = u64::from_le_bytes(attempt!(self.array()));
        // If usize is narrower, the file cannot hold anything of that size.
        if size > usize::MAX as u64 { Err(PackedError::Truncated) } else { Ok(size as usize) }
    }

    pub(crate) const fn string(&mut self) -> Result<&'a [u8], PackedError> {
        let len = attempt!(self.size());
        self.take(len)
    }

    /// A value of metadata.
    const fn value(&mut self) -> Result<Value<'a>, PackedError> {
        let kind = attempt!(self.u32());
        match kind {
            kind::U32 => Ok(Value::U32(attempt!(self.u32()))),
            kind::F32 => Ok(Value::F32(attempt!(self.f32()))),
            kind::F64 => Ok(Value::F64(f64::from_le_bytes(attempt!(self.array())))),
            kind::BOOL => Ok(Value::Bool(attempt!(self.array::<1>())[0] != 0)),
            kind::STRING => Ok(Value::String(attempt!(self.string()))),
            kind::ARRAY => {
                let (kind, count) = (attempt!(self.u32()), attempt!(self.size()));
                let elements = Cursor(self.0);
                if kind == kind::STRING {
                    // Each string takes at least eight bytes, so a count that is too large reaches the end of the file
                    // soon.
                    let mut i = 0;
                    while i < count {
                        attempt!(self.string());
                        i += 1;
                    }
                } else {
                    let len = match size_of_kind(kind) {
                        Some(size) => count.checked_mul(size),
                        None => None,
                    };
                    match len {
                        Some(len) => attempt!(self.take(len)),
                        None => return Err(PackedError::Truncated),
                    };
                }
                Ok(Value::Array { kind, count, elements })
            }
            other => match size_of_kind(other) {
                Some(size) => {
                    attempt!(self.take(size));
                    Ok(Value::Other)
                }
                None => Err(PackedError::Truncated),
            },
        }
    }
}

/// The size in bytes of a number or a bool.
const fn size_of_kind(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A metadata value. Number types that this library does not use are `Other`.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metadata"), expect(dead_code, reason = "no key of the model itself is f64"))]
pub(crate) enum Value<'a> {
    U32(u32),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(&'a [u8]),
    Array { kind: u32, count: usize, elements: Cursor<'a> },
    Other,
}

/// The parts of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gguf<'a> {
    metadata: Cursor<'a>,
    metadata_count: usize,
    /// The table of tensors and everything behind it.
    pub(super) tensors: Cursor<'a>,
    pub(super) tensor_count: usize,
    /// The data section; it starts at a multiple of [`ALIGN`](crate::ALIGN).
    pub(super) data: &'a [u8],
}

/// A row of the table of tensors.
pub(super) struct TensorInfo<'a> {
    pub(super) name: &'a [u8],
    /// Dimensions, innermost first, filled up to four with 1.
    pub(super) dims: [u64; 4],
    pub(super) kind: u32,
    pub(super) offset: u64,
}

impl<'a> Gguf<'a> {
    pub(super) const fn open(file: &'a [u8]) -> Result<Self, PackedError> {
        let mut cursor = Cursor(file);
        match cursor.array() {
            Ok(MAGIC) => {}
            _ => return Err(PackedError::NotGguf),
        }
        let version = attempt!(cursor.u32());
        if version != VERSION {
            return Err(PackedError::Version(version));
        }
        let (tensor_count, metadata_count) = (attempt!(cursor.size()), attempt!(cursor.size()));
        let metadata = cursor;
        let mut i = 0;
        while i < metadata_count {
            attempt!(cursor.string());
            attempt!(cursor.value());
            i += 1;
        }
        let tensors = cursor;
        let mut i = 0;
        while i < tensor_count {
            attempt!(cursor.tensor());
            i += 1;
        }
        let read = file.len() - cursor.0.len();
        let padding = read.next_multiple_of(crate::ALIGN) - read;
        attempt!(cursor.take(padding));
        Ok(Self { metadata, metadata_count, tensors, tensor_count, data: cursor.0 })
    }

    /// The value of a key, if the file has the key.
    pub(super) const fn get(&self, key: &str) -> Result<Option<Value<'a>>, PackedError> {
        let mut cursor = self.metadata;
        let mut i = 0;
        while i < self.metadata_count {
            let name = attempt!(cursor.string());
            let value = attempt!(cursor.value());
            if equal(name, key.as_bytes()) {
                return Ok(Some(value));
            }
            i += 1;
        }
        Ok(None)
    }
}

impl<'a> Cursor<'a> {
    pub(super) const fn tensor(&mut self) -> Result<TensorInfo<'a>, PackedError> {
        let name = attempt!(self.string());
        let rank = attempt!(self.u32());
        let mut dims = [1; 4];
        if rank as usize > dims.len() {
            return Err(PackedError::Truncated);
        }
        let mut i = 0;
        while i < rank as usize {
            dims[i] = u64::from_le_bytes(attempt!(self.array()));
            i += 1;
        }
        let kind = attempt!(self.u32());
        Ok(TensorInfo { name, dims, kind, offset: u64::from_le_bytes(attempt!(self.array())) })
    }
}

/// `==` on slices for a `const fn`.
pub(super) const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
