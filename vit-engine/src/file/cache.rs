//! The tables for each image size that a model has been used with.
use std::sync::OnceLock;

use crate::memory::AlignedBox;

/// A list that only grows, at its end. Models have few sizes.
///
/// Looking up takes no lock: the child of a fork can do so whatever other threads of its parent were doing.
#[derive(Default)]
pub(super) struct Cache(OnceLock<Box<Entry>>);

struct Entry {
    image: [usize; 2],
    tables: AlignedBox,
    next: Cache,
}

impl Cache {
    pub(super) fn get(&self, image: [usize; 2]) -> Option<&[u8]> {
        let mut list = self;
        while let Some(entry) = list.0.get() {
            if entry.image == image {
                return Some(&entry.tables);
            }
            list = &entry.next;
        }
        None
    }

    /// Adds the tables of a size, unless another thread has done so first. Returns those that are kept.
    pub(super) fn insert(&self, image: [usize; 2], tables: AlignedBox) -> &[u8] {
        let mut new = Some(Box::new(Entry { image, tables, next: Self::default() }));
        let mut list = self;
        loop {
            let entry = list.0.get_or_init(|| new.take().expect("it is taken once, and then found"));
            if entry.image == image {
                return &entry.tables;
            }
            list = &entry.next;
        }
    }
}

impl Drop for Cache {
    /// One entry after the other: a long list would need a deep stack.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut entry) = next {
            next = entry.next.0.take();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn tables(byte: u8) -> AlignedBox {
        let mut tables = AlignedBox::new(64).unwrap();
        tables.fill(byte);
        tables
    }

    #[test]
    fn the_first_tables_of_a_size_are_kept() {
        let cache = Cache::default();
        assert_eq!(cache.get([1, 2]), None);
        assert_eq!(cache.insert([1, 2], tables(1)), [1; 64]);
        let first = cache.get([1, 2]).unwrap();
        assert_eq!(cache.insert([2, 1], tables(2)), [2; 64]);
        assert_eq!(cache.insert([1, 2], tables(3)), [1; 64]);
        assert_eq!((first, cache.get([2, 1])), (&[1; 64][..], Some(&[2; 64][..])));
    }

    #[test]
    fn threads_agree_and_a_long_list_is_dropped() {
        let cache = Cache::default();
        let sizes = if cfg!(miri) { 20 } else { 300 };
        let found: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let fill = |byte: u8| {
                let places = |size: usize| cache.insert([size, 1], tables(byte)).as_ptr() as usize;
                (0..sizes).map(places).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|byte| scope.spawn(move || fill(byte))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|places| *places == found[0]));
    }
}
