//! The square root, by the FPU where stable Rust's `core` would call a library.

/// Rounded to nearest.
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    let mut bits = x.to_bits();
    // `asm!` takes no FPU registers on these targets in stable Rust, so this saves and restores the one that it uses.
    // SAFETY: instructions of the FPU that this target passes floats in; no register but the operands is changed.
    unsafe {
        core::arch::asm!(
            "vmov {saved}, s0",
            "vmov s0, {x}",
            "vsqrt.f32 s0, s0",
            "vmov {x}, s0",
            "vmov s0, {saved}",
            x = inout(reg) bits, saved = out(reg) _, options(pure, nomem, nostack, preserves_flags));
    }
    f32::from_bits(bits)
}

/// Rounded to nearest.
#[cfg(not(all(target_arch = "arm", target_abi = "eabihf")))]
#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}
