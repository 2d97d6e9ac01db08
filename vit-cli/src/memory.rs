//! Allocations whose size comes from a flag or a file. Too large a size is an error; `vec!` would end the process.
use anyhow::{Result, anyhow};

/// A vector of `dims[0] · dims[1] · …` zeros.
pub(crate) fn zeros<T: Clone + Default>(what: &str, dims: &[usize]) -> Result<Vec<T>> {
    let mut memory = Vec::new();
    let len = dims.iter().try_fold(1usize, |len, size| len.checked_mul(*size));
    let len = len.filter(|len| memory.try_reserve_exact(*len).is_ok()).ok_or_else(|| refused::<T>(what, dims))?;
    memory.resize(len, T::default());
    Ok(memory)
}

/// Reserves room for `more` elements. At least doubles the capacity, so that elements move rarely, but not beyond
/// `most` unless needed.
pub(crate) fn grow<T>(what: &str, memory: &mut Vec<T>, more: usize, most: usize) -> Result<()> {
    let needed = memory.len().saturating_add(more);
    if needed > memory.capacity() {
        let wanted = memory.capacity().saturating_mul(2).min(most).max(needed);
        memory.try_reserve_exact(wanted - memory.len()).map_err(|_| refused::<T>(what, &[wanted]))?;
    }
    Ok(())
}

fn refused<T>(what: &str, dims: &[usize]) -> anyhow::Error {
    let elements = dims.iter().fold(1u128, |len, size| len.saturating_mul(*size as u128));
    let bytes = elements.saturating_mul(size_of::<T>() as u128);
    anyhow!("cannot allocate {bytes} bytes for {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_an_error_that_states_the_bytes() {
        assert_eq!(zeros::<f32>("pixels", &[2, 3]).unwrap(), [0.0; 6]);
        for (dims, bytes) in [
            (&[1_000_000_000_000, 784][..], "3136000000000000 bytes for pixels"),
            (&[usize::MAX], "73786976294838206460 bytes"),
            (&[usize::MAX, usize::MAX, usize::MAX], "bytes for pixels"),
        ] {
            let error = zeros::<f32>("pixels", dims).unwrap_err().to_string();
            assert!(error.contains(bytes), "{error}");
        }
    }

    #[test]
    fn growth_stops_at_what_was_promised() {
        let mut memory: Vec<u8> = Vec::new();
        for _ in 0..100 {
            grow("bytes", &mut memory, 1, 100).unwrap();
            assert!(memory.capacity() <= 100);
            memory.push(0);
        }
        assert!(grow("bytes", &mut memory, usize::MAX, 100).is_err());
    }
}
