//! What an unfinished run has computed: `OUT.part`, a file that only grows, beside the file that it will become.
//!
//! Two lines, a magic one and the [`Description`] as JSON, then blocks: length and CRC-32 (u32, little-endian), and
//! that many bytes of rows. A row is its path's length (u32), the path, and `dim` f32. A process that is killed
//! leaves an incomplete block at most, which the next run cuts off.
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::embeddings::{self, Description, EachRow};
use crate::inputs;

const MAGIC: &str = "vit embed: an unfinished run, version 1\n";

/// The longest block that is read: more than a batch has.
const LONGEST_BLOCK: u32 = 1 << 30;

/// The longest line with a description.
const LONGEST_LINE: u64 = 1 << 24;

/// The file, locked: two runs cannot write the same output.
pub(super) struct Journal {
    pub(super) path: PathBuf,
    file: File,
    dim: usize,
    /// The length of the two lines.
    start: u64,
    /// The pictures that are in the file.
    pub(super) rows: usize,
}

/// The file of an output.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

impl Journal {
    /// Opens or creates the file of an output, with what it holds already.
    ///
    /// # Errors
    /// If it holds rows, and `resume` is not set, or they are of another model; if another process writes it.
    pub(super) fn open(out: &Path, description: &Description, resume: bool) -> Result<Self> {
        let path = beside(out);
        let open = || {
            if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
                bail!("is not a regular file");
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => bail!("another run is writing this file"),
                // Some file systems have no locks.
                Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => return Err(error.into()),
                _ => {}
            }
            let mut journal = Self { path: path.clone(), file, dim: description.dim, start: 0, rows: 0 };
            let found = journal.scan(description)?;
            if journal.rows > 0 {
                ensure!(
                    resume,
                    "{} pictures of an unfinished run: --resume goes on with it; delete the file to start anew",
                    journal.rows
                );
                found.context("an unfinished run without a description")?.check(description)?;
            } else {
                journal.begin(description)?;
            }
            Ok(journal)
        };
        open().with_context(|| inputs::shown(&path))
    }

    /// Writes the two lines into what was empty.
    fn begin(&mut self, description: &Description) -> Result<()> {
        let lines = format!("{MAGIC}{}\n", serde_json::to_string(description)?);
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(lines.as_bytes())?;
        self.start = lines.len() as u64;
        Ok(())
    }

    /// Begins with the rows of a complete file: with all of them, or if the process is killed meanwhile, with none.
    pub(super) fn seed(&mut self, description: &Description, complete: &Path) -> Result<()> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".tmp");
        let name = PathBuf::from(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&name)?;
        // Nobody else has this file: this process holds the lock on the one that it will replace.
        let _ = file.try_lock();
        let mut seeded = Self { path: self.path.clone(), file, dim: self.dim, start: 0, rows: 0 };
        seeded.begin(description)?;
        embeddings::each(complete, &mut |path, row| seeded.append([(path, row)]))?;
        seeded.file.sync_all()?;
        std::fs::rename(&name, &self.path)?;
        *self = seeded;
        Ok(())
    }

    /// Reads what is there, cuts off what is incomplete, and leaves the file at its end.
    fn scan(&mut self, own: &Description) -> Result<Option<Description>> {
        let mut reader = BufReader::new(&self.file);
        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        ensure!(MAGIC.as_bytes().starts_with(&magic), "is not of 'vit embed'");
        let mut line = String::new();
        reader.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Ok(None);
        }
        let found: Description = serde_json::from_str(&line)?;
        self.start = (magic.len() + line.len()) as u64;
        drop(reader);
        // With another length of rows the blocks cannot be read, and they are not wanted.
        if found.dim != own.dim {
            found.check(own)?;
        }
        let mut rows = 0;
        let end = self.blocks(&mut |_, _| {
            rows += 1;
            Ok(())
        })?;
        self.rows = rows;
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(Some(found))
    }

    /// Passes on every row, and returns where the last complete block ends.
    fn blocks(&self, row: &mut EachRow<'_>) -> Result<u64> {
        let mut file = &self.file;
        let mut end = file.seek(SeekFrom::Start(self.start))?;
        let mut reader = BufReader::new(file);
        let (mut head, mut block, mut numbers) = ([0; 8], Vec::new(), Vec::new());
        loop {
            match reader.read_exact(&mut head) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(end),
                other => other?,
            }
            let [len, crc] = [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
            block.clear();
            reader.by_ref().take(len.min(LONGEST_BLOCK).into()).read_to_end(&mut block)?;
            if block.len() != len as usize || crc32fast::hash(&block) != crc {
                return Ok(end);
            }
            let mut rest = &*block;
            while !rest.is_empty() {
                let (path, bytes) = self.row(&mut rest).context("a damaged block")?;
                numbers.clear();
                numbers.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                row(path, &numbers)?;
            }
            end += (head.len() + block.len()) as u64;
        }
    }

    /// Splits off a row: its path, and the bytes of its embedding.
    fn row<'a>(&self, rest: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
        let (len, after) = rest.split_first_chunk()?;
        let (path, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (bytes, after) = after.split_at_checked(4 * self.dim)?;
        *rest = after;
        Some((str::from_utf8(path).ok()?, bytes))
    }

    /// Appends a block of rows.
    pub(super) fn append<'a>(&mut self, rows: impl IntoIterator<Item = (&'a str, &'a [f32])>) -> Result<()> {
        let (mut block, mut count) = (vec![0; 8], 0);
        for (path, embedding) in rows {
            ensure!(embedding.len() == self.dim, "a row of {} numbers, not {}", embedding.len(), self.dim);
            block.extend(u32::try_from(path.len())?.to_le_bytes());
            block.extend(path.as_bytes());
            block.extend(embedding.iter().flat_map(|x| x.to_le_bytes()));
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let len = u32::try_from(block.len() - 8).ok().filter(|len| *len <= LONGEST_BLOCK);
        let len = len.context("a batch too large to be stored: give a smaller --batch")?;
        let crc = crc32fast::hash(&block[8..]);
        block[..4].copy_from_slice(&len.to_le_bytes());
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all(&block).with_context(|| inputs::shown(&self.path))?;
        self.rows += count;
        Ok(())
    }

    /// Passes on every row, in the order in which they were appended.
    pub(super) fn each(&self, row: &mut EachRow<'_>) -> Result<()> {
        self.blocks(row)?;
        (&self.file).seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// How often each path is in the file.
    pub(super) fn done(&self) -> Result<HashMap<String, usize>> {
        let mut done = HashMap::new();
        self.each(&mut |path, _| {
            *done.entry(path.to_owned()).or_default() += 1;
            Ok(())
        })?;
        Ok(done)
    }

    /// Removes the file: nothing in it is needed any more.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).with_context(|| inputs::shown(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(journal: &Journal) -> Vec<(String, Vec<f32>)> {
        let mut rows = Vec::new();
        let mut push = |path: &str, row: &[f32]| {
            rows.push((path.to_owned(), row.to_vec()));
            Ok(())
        };
        journal.each(&mut push).unwrap();
        rows
    }

    /// A run that is killed after any byte is resumed with the blocks before it.
    #[test]
    fn every_cut_leaves_whole_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.npy");
        let description = Description::example(2);
        let mut journal = Journal::open(&out, &description, false).unwrap();
        journal.append([("a", &[1.0, 2.0][..]), ("é", &[3.0, 4.0])]).unwrap();
        journal.append([("c", &[5.0, 6.0][..])]).unwrap();
        let want = rows(&journal);
        let (path, start) = (journal.path.clone(), journal.start as usize);
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let first = start + 8 + (4 + 1 + 8) + (4 + 2 + 8);
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let mut journal = Journal::open(&out, &description, true).unwrap();
            let kept = if len == whole.len() {
                3
            } else if len >= first {
                2
            } else {
                0
            };
            assert_eq!((journal.rows, rows(&journal)), (kept, want[..kept].to_vec()), "{len}");
            journal.append([("d", &[7.0, 8.0][..])]).unwrap();
            assert_eq!(rows(&journal).last().unwrap().0, "d");
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(Journal::open(&out, &description, true).unwrap().rows, 2);
    }

    #[test]
    fn what_is_not_its_own_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.npy");
        let description = Description::example(2);
        let open = |description: &Description, resume| Journal::open(&out, description, resume);
        let error = |result: Result<Journal>| format!("{:#}", result.err().unwrap());
        let mut journal = open(&description, false).unwrap();
        assert!(error(open(&description, true)).contains("another run"));
        journal.append([("a", &[1.0, 2.0][..])]).unwrap();
        drop(journal);
        assert!(error(open(&description, false)).contains("--resume"));
        let other = Description { model_sha256: "f".repeat(64), ..description.clone() };
        assert!(error(open(&other, true)).contains("another model"));
        assert!(error(open(&Description { dim: 3, ..other }, true)).contains("another model"));
        assert_eq!(open(&description, true).unwrap().rows, 1);
        std::fs::write(beside(&out), "my own notes").unwrap();
        assert!(error(open(&description, true)).contains("is not of 'vit embed'"));
        assert_eq!(std::fs::read(beside(&out)).unwrap(), b"my own notes");
    }
}
