//! RISC-V in machine mode, here QEMU's `virt`.
use core::arch::asm;

use super::bare;

#[riscv_rt::entry]
fn main() -> ! {
    bare::run()
}

/// Instructions executed since reset: the counter `minstret`.
pub fn instructions() -> Option<u64> {
    loop {
        let [high, low, again]: [u32; 3];
        // SAFETY: reads counters that every RISC-V core has in machine mode.
        unsafe {
            asm!("csrr {}, minstreth", "csrr {}, minstret", "csrr {}, minstreth",
                out(reg) high, out(reg) low, out(reg) again, options(nomem, nostack, preserves_flags));
        }
        if high == again {
            return Some(u64::from(high) << 32 | u64::from(low));
        }
    }
}

#[unsafe(export_name = "ExceptionHandler")] // SAFETY: riscv-rt calls the function of this name with such an argument.
fn exception(_: &riscv_rt::TrapFrame) -> ! {
    bare::fail(&"fault: an exception")
}
