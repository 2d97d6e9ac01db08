//! Cortex-M, here the MPS2 and MPS3 boards that QEMU emulates.
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{ExceptionFrame, entry, exception};

use super::bare;

#[entry]
fn main() -> ! {
    if let Some(core) = cortex_m::Peripherals::take() {
        start_counter(core.SYST);
    }
    bare::run()
}

/// SysTick counts down from this.
const LARGEST: u32 = 0x00ff_ffff;

/// How many times SysTick reached 0.
static WRAPS: AtomicU32 = AtomicU32::new(0);

/// Instructions in 256 ticks of SysTick.
static PER_256_TICKS: AtomicU32 = AtomicU32::new(0);

/// Starts SysTick and measures how many instructions a tick takes, with a loop whose instructions are known. That is a
/// constant where every instruction takes the same time: in QEMU with `-icount shift=0`.
fn start_counter(mut timer: SYST) {
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(LARGEST);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
    while SYST::get_current() == 0 {} // It is 0 until the first tick.
    const LOOPS: u32 = 1 << 19;
    let start = ticks();
    // SAFETY: two instructions that count a register down to 0.
    unsafe { asm!("2: subs {0}, #1", "bne 2b", inout(reg) LOOPS => _, options(nomem, nostack)) };
    let ticks = ((ticks() - start) as u32).max(1);
    PER_256_TICKS.store(LOOPS * 2 * 256 / ticks, Ordering::Relaxed);
}

/// Ticks since the counter was started.
fn ticks() -> u64 {
    loop {
        let wraps = WRAPS.load(Ordering::Relaxed);
        let current = SYST::get_current();
        if wraps == WRAPS.load(Ordering::Relaxed) {
            return u64::from(wraps) * (u64::from(LARGEST) + 1) + u64::from(LARGEST - current);
        }
    }
}

/// Instructions executed since the counter was started, to about one tick.
pub fn instructions() -> Option<u64> {
    Some(ticks() * u64::from(PER_256_TICKS.load(Ordering::Relaxed)) / 256)
}

#[exception]
fn SysTick() {
    // Cores without compare-and-swap have no `fetch_add`; nothing else writes it.
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    bare::fail(&"fault: a hard fault")
}
