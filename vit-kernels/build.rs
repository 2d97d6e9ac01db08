//! Finds out what stable Rust's `cfg(target_feature)` does not say of a target.
//!
//! | cfg | Set on |
//! |---|---|
//! | `no_vectors` | targets for which `wide` has no vectors, such as Cortex-M and 32-bit RISC-V |
//! | `arm_neon` | 64-bit Arm, little-endian, with NEON |
//! | `wasm_simd` | WebAssembly with `simd128` |
//! | `arm_thumb1` | Cortex-M whose instructions name eight registers: M0, M23 |
//! | `arm_dsp` | Cortex-M with the DSP instructions: M4, M7; M33 and later if `-C target-cpu` names one |
use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["no_vectors", "arm_neon", "wasm_simd", "arm_thumb1", "arm_dsp"] {
        println!("cargo::rustc-check-cfg=cfg({name})");
    }
    let variable = |name| env::var(name).unwrap_or_default();
    let (target, flags) = (variable("TARGET"), variable("CARGO_ENCODED_RUSTFLAGS"));
    let features = variable("CARGO_CFG_TARGET_FEATURE");
    let has = |wanted| features.split(',').any(|feature| feature == wanted);
    // Of an M55 and M85 the compiler says `neon`, which they do not have.
    let cortex_m = ["thumbv6m", "thumbv7m", "thumbv7em", "thumbv8m"].iter().any(|start| target.starts_with(start));
    if cortex_m || !has("sse2") && !has("neon") && !has("simd128") {
        println!("cargo::rustc-cfg=no_vectors");
    }
    if target.starts_with("aarch64-") && variable("CARGO_CFG_TARGET_ENDIAN") == "little" && has("neon") {
        println!("cargo::rustc-cfg=arm_neon");
    }
    if variable("CARGO_CFG_TARGET_ARCH") == "wasm32" && has("simd128") {
        println!("cargo::rustc-cfg=wasm_simd");
    }
    if target.starts_with("thumbv6m") || target.starts_with("thumbv8m.base") {
        println!("cargo::rustc-cfg=arm_thumb1");
    }
    let has_dsp = |cpu: &&str| flags.contains(&format!("target-cpu={cpu}"));
    let v8_with_dsp = ["cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85"].iter().any(has_dsp);
    if target.starts_with("thumbv7em") || target.starts_with("thumbv8m.main") && v8_with_dsp {
        println!("cargo::rustc-cfg=arm_dsp");
    }
}
