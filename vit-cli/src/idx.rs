//! The IDX format of MNIST and similar data sets (<https://yann.lecun.com/exdb/mnist/>): a big-endian header, then
//! bytes.
//!
//! Files are read as a stream, item by item: a gzipped file of 4 MB can hold 4 GB of zeros.
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

use crate::inputs;

/// An array of unsigned bytes, split into items along its first dimension.
pub(crate) struct Idx {
    /// The name of the file, for display.
    pub(crate) name: String,
    shape: Vec<usize>,
    /// Bytes in an item.
    item: usize,
    stream: Mutex<Stream>,
}

/// The stream of items.
struct Stream {
    source: Box<dyn Read + Send>,
    /// The index of the next item.
    next: usize,
    /// Items that have been read but not taken yet.
    passed: HashMap<usize, Vec<u8>>,
}

impl Idx {
    /// Opens a file, plain or gzipped, and reads its header. The array must have `rank` dimensions.
    pub(crate) fn open(path: &Path, rank: usize) -> Result<Self> {
        let name = inputs::shown(path);
        let open = || -> Result<Self> {
            let mut file = BufReader::new(inputs::open_stream(path)?);
            match file.fill_buf()? {
                [0x1f, 0x8b, ..] => Self::new(name.clone(), BufReader::new(MultiGzDecoder::new(file)), rank),
                _ => Self::new(name.clone(), file, rank),
            }
        };
        open().with_context(|| name.clone())
    }

    fn new(name: String, mut source: impl Read + Send + 'static, rank: usize) -> Result<Self> {
        let mut word = || -> Result<[u8; 4]> {
            let mut word = [0; 4];
            source.read_exact(&mut word).context("too short for an IDX header")?;
            Ok(word)
        };
        match word()? {
            [0, 0, 8, found] if usize::from(found) == rank => {}
            [0, 0, 8, found] => bail!("an IDX file with {found} dimensions, expected {rank}"),
            [0, 0, kind, _] => bail!("an IDX file of type 0x{kind:02x}, expected unsigned bytes (0x08)"),
            _ => bail!("not an IDX file: it does not start with the bytes 0 0"),
        }
        let shape = (0..rank).map(|_| Ok(u32::from_be_bytes(word()?) as usize)).collect::<Result<Vec<_>>>()?;
        let len = shape.iter().rev().try_fold(1usize, |len, size| len.checked_mul(*size));
        len.context("the dimensions are too large")?;
        let item = shape.iter().skip(1).product();
        let stream = Mutex::new(Stream { source: Box::new(source), next: 0, passed: HashMap::new() });
        Ok(Self { name, shape, item, stream })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Takes an item. Each item can be taken once, in any order; items that are skipped stay in memory until they are
    /// taken.
    ///
    /// # Errors
    /// If the file ends before the end of the item, or continues after the last one.
    pub(crate) fn take(&self, index: usize) -> Result<Vec<u8>> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        while stream.next <= index {
            let item = self.read(&mut stream)?;
            let next = stream.next;
            stream.passed.insert(next, item);
            stream.next += 1;
        }
        stream.passed.remove(&index).with_context(|| format!("item {index} was taken before"))
    }

    /// Reads the next item.
    fn read(&self, stream: &mut Stream) -> Result<Vec<u8>> {
        let Stream { source, next, .. } = stream;
        let count = self.shape[0];
        // The buffer grows with the data, not with the sizes in the header.
        let mut item = Vec::new();
        source.take(self.item as u64).read_to_end(&mut item)?;
        ensure!(item.len() == self.item, "the header promises {count} items, but the file ends within item {next}");
        if *next + 1 == count {
            let beyond = source.take(1).read_to_end(&mut Vec::new())?;
            ensure!(beyond == 0, "the file has more than the {count} items that the header promises");
        }
        Ok(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::GzEncoder;

    fn file(header: [u8; 4], sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
        header.into_iter().chain(sizes).chain(data.iter().copied()).collect()
    }

    fn parse(file: &[u8], rank: usize) -> Result<Idx> {
        Idx::new("test".into(), std::io::Cursor::new(file.to_vec()), rank)
    }

    /// All items of a file.
    fn all(idx: &Idx) -> Result<Vec<u8>> {
        Ok((0..idx.shape()[0]).map(|index| idx.take(index)).collect::<Result<Vec<_>>>()?.concat())
    }

    #[test]
    fn good_and_bad_files() {
        let good = file([0, 0, 8, 2], &[2, 3], &[1, 2, 3, 4, 5, 6]);
        let idx = parse(&good, 2).unwrap();
        assert_eq!((idx.shape(), all(&idx).unwrap()), (&[2, 3][..], vec![1, 2, 3, 4, 5, 6]));
        let says = |file: &[u8], rank, text: &str| {
            let error = format!("{:#}", parse(file, rank).and_then(|idx| all(&idx)).unwrap_err());
            assert!(error.contains(text), "{error}");
        };
        says(&good, 1, "2 dimensions");
        says(&good[..3], 2, "too short");
        says(&good[..9], 2, "too short");
        says(&good[..13], 2, "promises 2 items, but the file ends within item 0");
        says(&good[..15], 2, "ends within item 1");
        says(&[&*good, &[0]].concat(), 2, "more than the 2");
        says(&file([0, 0, 9, 1], &[0], &[]), 1, "type 0x09");
        says(b"\x89PNG....", 1, "not an IDX");
        says(&file([0, 0, 8, 3], &[u32::MAX; 3], &[7]), 3, "too large");
        says(&file([0, 0, 8, 2], &[u32::MAX; 2], &[7]), 2, "within item 0");
    }

    #[test]
    fn items_in_any_order() {
        let idx = parse(&file([0, 0, 8, 2], &[4, 1], &[5, 6, 7, 8]), 2).unwrap();
        for index in [2, 0, 3, 1] {
            assert_eq!(idx.take(index).unwrap(), [5 + index as u8]);
        }
        assert!(idx.take(1).is_err());
        assert!(idx.stream.lock().unwrap().passed.is_empty());
    }

    /// The result of `cat a.gz b.gz` and of parallel compressors.
    #[test]
    fn gzip_files_of_several_members() {
        let whole = file([0, 0, 8, 1], &[5], &[1, 2, 3, 4, 5]);
        let zipped = |bytes: &[u8]| {
            let mut zipped = Vec::new();
            GzEncoder::new(bytes, Compression::default()).read_to_end(&mut zipped).unwrap();
            zipped
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.gz");
        for (members, ends) in [(vec![&whole[..6], &whole[6..11], &whole[11..]], true), (vec![&whole, b"!"], false)] {
            std::fs::write(&path, members.iter().flat_map(|member| zipped(member)).collect::<Vec<_>>()).unwrap();
            let items = all(&Idx::open(&path, 1).unwrap());
            assert_eq!(items.ok(), ends.then(|| vec![1, 2, 3, 4, 5]));
        }
    }

    /// A header that promises 4 TB, followed by endless zeros: only the requested items are in memory.
    #[test]
    fn a_file_is_not_held_in_memory() {
        let header = std::io::Cursor::new(file([0, 0, 8, 2], &[u32::MAX, 1000], &[]));
        let idx = Idx::new("test".into(), header.chain(std::io::repeat(0)), 2).unwrap();
        for index in 0..100 {
            assert_eq!(idx.take(index).unwrap().len(), 1000);
        }
        let stream = idx.stream.lock().unwrap();
        assert!(stream.passed.is_empty() && stream.next == 100);
    }
}
