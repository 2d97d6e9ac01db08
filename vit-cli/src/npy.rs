//! The .npy format (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a header, which is a
//! Python dict, followed by the numbers.
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use npyz::WriterBuilder;

use crate::replace::Replacement;
use crate::{inputs, memory};

/// The longest header that is read, in bytes. That of an f32 array has about a hundred.
const LONGEST_HEADER: usize = 64 << 10;

/// An array whose header has been read.
pub(crate) struct Npy<R> {
    shape: Vec<usize>,
    big_endian: bool,
    source: R,
}

/// Opens a file of f32 in C order.
pub(crate) fn open(path: &Path) -> Result<Npy<impl Read>> {
    Npy::new(BufReader::new(inputs::open_stream(path)?))
}

impl<R: Read> Npy<R> {
    fn new(mut source: R) -> Result<Self> {
        let mut start = [0; 8];
        source.read_exact(&mut start).context("not a .npy file: too short")?;
        let [magic @ .., major, _] = start;
        ensure!(magic == *b"\x93NUMPY", "not a .npy file: it does not start with the bytes \\x93NUMPY");
        let mut len = [0; 4];
        match major {
            1 => source.read_exact(&mut len[..2]),
            2 | 3 => source.read_exact(&mut len),
            _ => bail!("unknown version {major} of the .npy format"),
        }
        .context("not a .npy file: too short")?;
        let len = u32::from_le_bytes(len) as usize;
        ensure!(len <= LONGEST_HEADER, "the header has {len} bytes, more than the {LONGEST_HEADER} allowed");
        let mut header = vec![0; len];
        source.read_exact(&mut header).context("the file ends within the header")?;
        let header = Header::parse(&header).context("the header is not that of a plain array")?;
        let big_endian = match header.descr {
            "<f4" => false,
            ">f4" => true,
            other => bail!("the dtype is {other}; convert it: x.astype('float32')"),
        };
        ensure!(!header.fortran_order, "the array is in Fortran order; save numpy.ascontiguousarray(x)");
        Ok(Self { shape: header.shape, big_endian, source })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Reads the numbers. The memory grows with the data, not with the sizes in the header.
    pub(crate) fn read(mut self) -> Result<Vec<f32>> {
        let len = self
            .shape
            .iter()
            .try_fold(1usize, |len, size| len.checked_mul(*size))
            .context("the dimensions are too large")?;
        let mut numbers = Vec::new();
        self.read_some(&mut numbers, len)?;
        Ok(numbers)
    }

    /// Reads the next `len` numbers. The memory grows with the data.
    pub(crate) fn read_some(&mut self, numbers: &mut Vec<f32>, len: usize) -> Result<()> {
        let decode = if self.big_endian { f32::from_be_bytes } else { f32::from_le_bytes };
        let len = numbers.len().saturating_add(len);
        let mut block = [0; 64 << 10];
        while numbers.len() < len {
            let count = (len - numbers.len()).min(block.len() / 4);
            let block = &mut block[..4 * count];
            self.source.read_exact(block).context("the file is shorter than its header says")?;
            memory::grow("the pixels", numbers, count, len)?;
            numbers.extend(block.as_chunks().0.iter().map(|bytes| decode(*bytes)));
        }
        Ok(())
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_at_end(&mut self) -> Result<bool> {
        Ok(self.source.read(&mut [0])? == 0)
    }
}

/// Writes an array: the whole file or none. A device or a pipe is written to as it comes.
pub(crate) fn write<T: npyz::AutoSerialize + Copy>(path: &Path, shape: &[usize], data: &[T]) -> Result<()> {
    let write = |file: &mut File| write_to(file, shape, |push| push(data));
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let stream = || write(&mut File::create(path)?);
        return stream().with_context(|| inputs::shown(path));
    }
    let mut file = Replacement::of(path)?;
    write(file.file()).and_then(|()| file.finish()).with_context(|| inputs::shown(path))?;
    Ok(())
}

/// Writes an array whose numbers `each` passes on, piece by piece.
pub(crate) fn write_to<T: npyz::AutoSerialize + Copy>(
    file: &mut File,
    shape: &[usize],
    each: impl FnOnce(&mut dyn FnMut(&[T]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
    let mut out = BufWriter::new(file);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut out).begin_nd()?;
    each(&mut |numbers| Ok(writer.extend(numbers.iter().copied())?))?;
    writer.finish()?;
    Ok(out.flush()?)
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
#[derive(Debug, PartialEq)]
struct Header<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// Parses the three keys, in any order. Values do not nest, so each character is read once.
    fn parse(text: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).context("not text")?.trim_matches(BLANK);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.strip_prefix('{').context("not a dict")?.trim_start_matches(BLANK);
        while !rest.starts_with('}') {
            let (key, after) = string(rest)?;
            rest = after.trim_start_matches(BLANK).strip_prefix(':').context("a key without ':'")?;
            rest = rest.trim_start_matches(BLANK);
            rest = match key {
                "descr" if rest.starts_with('[') => bail!("its elements have fields; save a plain array of float32"),
                "descr" => descr.insert_new(string(rest)?)?,
                "fortran_order" => fortran_order.insert_new(boolean(rest)?)?,
                "shape" => shape.insert_new(tuple(rest)?)?,
                _ => bail!("a key that is not 'descr', 'fortran_order' or 'shape'"),
            };
            rest = rest.trim_start_matches(BLANK);
            match rest.strip_prefix(',') {
                Some(after) => rest = after.trim_start_matches(BLANK),
                None => ensure!(rest.starts_with('}'), "neither ',' nor '}}' after '{key}'"),
            }
        }
        ensure!(rest == "}", "more than one dict");
        let missing = |key: &str| format!("no '{key}'");
        Ok(Self {
            descr: descr.with_context(|| missing("descr"))?,
            fortran_order: fortran_order.with_context(|| missing("fortran_order"))?,
            shape: shape.with_context(|| missing("shape"))?,
        })
    }
}

const BLANK: [char; 4] = [' ', '\t', '\n', '\r'];

/// Parses a value and returns the rest of the text.
trait InsertNew<T> {
    fn insert_new<'a>(&mut self, parsed: (T, &'a str)) -> Result<&'a str>;
}

impl<T> InsertNew<T> for Option<T> {
    fn insert_new<'a>(&mut self, (value, rest): (T, &'a str)) -> Result<&'a str> {
        ensure!(self.replace(value).is_none(), "a key appears twice");
        Ok(rest)
    }
}

/// `'text'` or `"text"`, without escapes, and the rest of the text.
fn string(text: &str) -> Result<(&str, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c)).context("expected a string")?;
    let (inside, rest) = text[1..].split_once(quote).context("a string without an end")?;
    ensure!(!inside.contains('\\'), "a string with escapes");
    Ok((inside, rest))
}

fn boolean(text: &str) -> Result<(bool, &str)> {
    let yes = text.strip_prefix("True").map(|rest| (true, rest));
    yes.or(text.strip_prefix("False").map(|rest| (false, rest))).context("neither True nor False")
}

/// `()`, `(2,)` or `(2, 3)`, with Python 2's `2L` too, and the rest of the text.
fn tuple(text: &str) -> Result<(Vec<usize>, &str)> {
    let (inside, rest) = text.strip_prefix('(').and_then(|text| text.split_once(')')).context("not a tuple")?;
    let inside = inside.trim_matches(BLANK);
    let inside = inside.strip_suffix(',').unwrap_or(inside);
    if inside.is_empty() {
        return Ok((Vec::new(), rest));
    }
    let size = |text: &str| {
        let digits = text.trim_matches(BLANK);
        digits.strip_suffix('L').unwrap_or(digits).parse().context("a dimension that is not a whole number")
    };
    Ok((inside.split(',').map(size).collect::<Result<_>>()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let len = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()
    }

    fn error(file: &[u8]) -> String {
        format!("{:#}", Npy::new(file).and_then(Npy::read).unwrap_err())
    }

    #[test]
    fn headers_as_they_are_written() {
        for (header, shape) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }          \n", vec![1, 2]),
            ("{\"shape\":(2L,),\"fortran_order\":False,\"descr\":\"<f4\"}", vec![2]),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()}\n", vec![]),
        ] {
            let bytes = file(header, &[0, 0, 128, 63, 0, 0, 0, 64]);
            let npy = Npy::new(&*bytes).unwrap();
            assert_eq!(npy.shape(), shape);
            assert_eq!(npy.read().unwrap(), [1.0, 2.0][..shape.iter().product()]);
        }
        let big = file("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", &[63, 128, 0, 0]);
        assert_eq!(Npy::new(&*big).unwrap().read().unwrap(), [1.0]);
        // Versions 2 and 3 have a longer length.
        for version in [2, 3] {
            let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7), }";
            let len = u32::try_from(header.len()).unwrap().to_le_bytes();
            let bytes = [b"\x93NUMPY", &[version, 0][..], &len, header.as_bytes()].concat();
            assert_eq!(Npy::new(&*bytes).unwrap().shape(), [0, 7]);
        }
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        write(&path, &[2], &[1.0f32, 2.0]).unwrap();
        write(&path, &[3], &[7.0f32, 8.0]).unwrap_err();
        assert_eq!(open(&path).unwrap().read().unwrap(), [1.0, 2.0]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(target_os = "linux")]
        for (device, works) in [("/dev/null", true), ("/dev/full", false)] {
            assert_eq!(write(Path::new(device), &[2], &[1.0f32, 2.0]).is_ok(), works, "{device}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let plain = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        for (header, message) in [
            (plain("(1,"), "not a tuple"),
            (plain("(1, -2)"), "not a whole number"),
            (plain("(1, 99999999999999999999)"), "not a whole number"),
            (plain("(4294967296, 4294967296, 4294967296)"), "too large"),
            (plain("(4294967296,)"), "shorter"),
            (plain("(1,), 'shape': (1,)"), "twice"),
            (plain("(1,), 'order': 1"), "a key that is not"),
            (plain("(1,)").replace("<f4", "<f8"), "the dtype is <f8; convert it"),
            (plain("(1,)").replace("'<f4'", "[('x', '<f4')]"), "fields"),
            (plain("(1,)").replace("False", "True"), "Fortran"),
            (plain("(1,)").replace(", 'shape'", " 'shape'"), "neither ','"),
            (plain("(1,)") + "{}", "more than one"),
            ("{'descr': '<f4', 'shape': (1,)}".into(), "no 'fortran_order'"),
            ("{'descr".into(), "without an end"),
            ("{".into(), "expected a string"),
            (String::new(), "not a dict"),
        ] {
            let error = error(&file(&header, &[]));
            assert!(error.contains(message), "{header}: {error}");
        }
        assert!(error(b"\x93NUMPY\x01").contains("not a .npy file"));
        assert!(error(b"\x93NUMPX\x01\x00\x00\x00").contains("not a .npy file"));
        assert!(error(b"\x93NUMPY\x04\x00\x00\x00").contains("version 4"));
        assert!(error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").contains("more than the 65536"));
        assert!(error(b"\x93NUMPY\x01\x00\x05\x00{").contains("ends within the header"));
        assert!(error(&file(&plain("(2,)"), &[0; 7])).contains("shorter"));
    }

    /// A parser that backtracks would take twice as long for each further bracket.
    #[test]
    fn nested_brackets_cost_nothing() {
        for brackets in ["(".repeat(60_000), "[".repeat(60_000), "{".repeat(60_000), "'a':{".repeat(12_000)] {
            error(&file(&brackets, &[]));
            error(&file(&format!("{{'descr': {brackets}"), &[]));
            error(&file(&format!("{{'shape': {brackets}"), &[]));
        }
    }
}
