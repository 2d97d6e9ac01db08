//! The loop over products of int8 for cores whose instructions name eight registers: in assembler, as the compiler keeps
//! half of the operands on the stack. Instructions per multiply–accumulate, with all loads: 4.5 for 2 rows, 4.8 for 1.
use core::arch::asm;

use super::plain::{self, Wide};

/// Columns that are summed at a time for tiles of that many rows.
pub(crate) const fn columns(rows: usize) -> usize {
    2 / rows
}

/// A loop over groups of four inputs, one or several a turn. What takes high registers is moved there first.
macro_rules! sweep {
    ($a:expr, $w:expr, $step:expr, $end:expr, $p:expr, $q:expr, $size:literal, [$($input:expr),*]) => {
        asm!(
            "mov r8, {x}", "mov r10, {y}",
            "2:", $($input,)* concat!("adds {a}, #", $size), "cmp {a}, r10", "bne 2b",
            a = inout(reg) $a => _, w = inout(reg) $w => _, x = inout(reg) $step => _, y = inout(reg) $end => _,
            p = inout(reg) $p, q = inout(reg) $q, out("r8") _, out("r10") _, options(readonly, nostack)
        )
    };
}

/// An input of two rows and one column: its weight, and the offsets of the rows' activations.
macro_rules! rows {
    ($w:literal, $first:literal, $second:literal) => {
        concat!(
            "ldrb {y}, [{w}, #",
            $w,
            "]\n sxtb {y}, {y}\n ldr {x}, [{a}, #",
            $first,
            "]\n muls {x}, {y}, {x}\n",
            "adds {p}, {p}, {x}\n ldr {x}, [{a}, #",
            $second,
            "]\n muls {x}, {y}, {x}\n adds {q}, {q}, {x}"
        )
    };
}

/// An input of one row and two columns: its activation, and the offsets of the weights.
macro_rules! weights {
    ($a:literal, $first:literal, $second:literal) => {
        concat!(
            "ldr {x}, [{a}, #",
            $a,
            "]\n ldrb {y}, [{w}, #",
            $first,
            "]\n sxtb {y}, {y}\n muls {y}, {x}, {y}\n",
            "adds {p}, {p}, {y}\n ldrb {y}, [{w}, #",
            $second,
            "]\n sxtb {y}, {y}\n muls {y}, {x}, {y}\n",
            "adds {q}, {q}, {y}"
        )
    };
}

/// A group of one row and two columns: the offsets of its activations.
macro_rules! group {
    ($first:literal, $second:literal, $third:literal, $fourth:literal) => {
        concat!(
            weights!($first, 0, 4),
            "\n",
            weights!($second, 1, 5),
            "\n",
            weights!($third, 2, 6),
            "\n",
            weights!($fourth, 3, 7),
            "\n add {w}, r8"
        )
    };
}

/// Groups of a turn for one row. The branch back reaches 256 bytes.
const TURN: usize = 2;

/// acc\[m\]\[c\] += a\[m\]·w\[c\] for each group of inputs: `a` is \[groups\]\[rows\], and the weights of a group lie
/// `step` bytes behind those of the one before.
///
/// # Safety
/// The weights of as many groups are readable.
#[inline(always)]
pub(super) unsafe fn multiply<const M: usize, const C: usize>(
    a: &[[Wide; M]],
    w: *const [[i8; 4]; C],
    step: usize,
    acc: &mut [[i32; C]; M],
) {
    if a.is_empty() {
        return;
    }
    let (turns, rest) = a.split_at(if M == 1 { a.len() / TURN * TURN } else { 0 });
    let after = w.wrapping_byte_add(turns.len() * step);
    let (turns, rest) = (turns.as_ptr_range(), rest.as_ptr_range());
    // SAFETY: instructions of every Cortex-M. They read `a` up to its end, a group of rows or several a turn, and as many
    // groups of weights, which the caller vouches for.
    unsafe {
        match (M, acc.as_flattened_mut()) {
            (2, [p, q]) => sweep!(
                rest.start,
                w,
                step,
                rest.end,
                *p,
                *q,
                32,
                [rows!(0, 0, 16), rows!(1, 4, 20), rows!(2, 8, 24), rows!(3, 12, 28), "add {w}, r8"]
            ),
            (1, [p, q]) => {
                if !turns.is_empty() {
                    sweep!(turns.start, w, step, turns.end, *p, *q, 32, [group!(0, 4, 8, 12), group!(16, 20, 24, 28)])
                }
                if !rest.is_empty() {
                    sweep!(rest.start, after, step, rest.end, *p, *q, 16, [group!(0, 4, 8, 12)])
                }
            }
            _ => plain::multiply(a, w, step, acc),
        }
    }
}
