//! The IDX format of MNIST and its kin (<https://yann.lecun.com/exdb/mnist/>): a big-endian header, then bytes.
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::GzDecoder;

/// An array of unsigned bytes.
#[derive(Debug)]
pub(crate) struct Idx {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// Reads a file, plain or gzipped, that has to have `rank` dimensions.
pub(crate) fn read(path: &Path, rank: usize) -> Result<Idx> {
    let open = || -> Result<Idx> {
        ensure!(!path.is_dir(), "is a folder, not an IDX file");
        let mut file = BufReader::new(File::open(path)?);
        match file.fill_buf()? {
            [0x1f, 0x8b, ..] => parse(GzDecoder::new(file), rank),
            _ => parse(file, rank),
        }
    };
    open().with_context(|| path.display().to_string())
}

fn parse(mut source: impl Read, rank: usize) -> Result<Idx> {
    let mut word = || -> Result<[u8; 4]> {
        let mut word = [0; 4];
        source.read_exact(&mut word).context("too short for an IDX header")?;
        Ok(word)
    };
    match word()? {
        [0, 0, 8, found] if usize::from(found) == rank => {}
        [0, 0, 8, found] => bail!("an IDX file of {found} dimensions, where {rank} are wanted"),
        [0, 0, kind, _] => bail!("an IDX file of type 0x{kind:02x}, where unsigned bytes (0x08) are wanted"),
        _ => bail!("not an IDX file: it starts with other bytes than 0 0"),
    }
    let shape = (0..rank).map(|_| Ok(u32::from_be_bytes(word()?) as usize)).collect::<Result<Vec<_>>>()?;
    let len = shape.iter().try_fold(1usize, |len, size| len.checked_mul(*size)).context("absurd dimensions")?;
    // Grows with what there is, not with what the header promises.
    let mut data = Vec::new();
    source.take(len as u64 + 1).read_to_end(&mut data)?;
    ensure!(data.len() >= len, "the header promises {len} bytes, and {} are there", data.len());
    ensure!(data.len() == len, "there are more than the {len} bytes that the header promises");
    Ok(Idx { shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: [u8; 4], sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
        header.into_iter().chain(sizes).chain(data.iter().copied()).collect()
    }

    #[test]
    fn good_and_bad_files() {
        let good = file([0, 0, 8, 2], &[2, 3], &[1, 2, 3, 4, 5, 6]);
        let idx = parse(&*good, 2).unwrap();
        assert_eq!((idx.shape, idx.data), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        let says = |file: &[u8], rank, text: &str| {
            let error = format!("{:#}", parse(file, rank).unwrap_err());
            assert!(error.contains(text), "{error}");
        };
        says(&good, 1, "2 dimensions");
        says(&good[..3], 2, "too short");
        says(&good[..9], 2, "too short");
        says(&good[..13], 2, "promises 6 bytes, and 1");
        says(&[&*good, &[0]].concat(), 2, "more than the 6");
        says(&file([0, 0, 9, 1], &[0], &[]), 1, "type 0x09");
        says(b"\x89PNG....", 1, "not an IDX");
        says(&file([0, 0, 8, 3], &[u32::MAX; 3], &[7]), 3, "absurd");
        says(&file([0, 0, 8, 2], &[u32::MAX; 2], &[7]), 2, "and 1 are there");
    }
}
