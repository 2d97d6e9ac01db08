//! Microcontrollers, and what a forward pass takes of their cores.
use serde::Serialize;

/// A microcontroller.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Chip {
    pub(super) name: &'static str,
    /// `None` for a chip of which only the memory is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) core: Option<&'static Core>,
    /// Bytes for weights and code; `None` without a limit.
    pub(super) flash: Option<usize>,
    /// Bytes of the largest contiguous RAM; `None` without a limit.
    pub(super) ram: Option<usize>,
    pub(super) mhz: Option<u32>,
    /// Where the figures are from.
    pub(super) source: &'static str,
}

/// A kind of core. The figures are those of `examples/firmware`, which runs fashion-vit in int8 in QEMU: see its README
/// and its budgets.txt.
#[derive(Debug, Serialize)]
pub(super) struct Core {
    pub(super) name: &'static str,
    /// Bytes of code and constants, without the model.
    pub(super) code_bytes: usize,
    /// The deepest stack, in bytes.
    pub(super) stack_bytes: usize,
    /// Instructions of a forward pass for each multiply–accumulate.
    pub(super) instructions_per_mac: f64,
}

static M0: Core = Core { name: "Cortex-M0+", code_bytes: 56_456, stack_bytes: 3_628, instructions_per_mac: 39.8 };
static M4F: Core = Core { name: "Cortex-M4F", code_bytes: 54_480, stack_bytes: 3_432, instructions_per_mac: 2.4 };
static M7: Core = Core { name: "Cortex-M7", code_bytes: 54_144, stack_bytes: 3_448, instructions_per_mac: 2.4 };
static M33: Core = Core { name: "Cortex-M33", code_bytes: 55_432, stack_bytes: 3_432, instructions_per_mac: 2.4 };
static RV32IMC: Core = Core { name: "RV32IMC", code_bytes: 66_892, stack_bytes: 2_824, instructions_per_mac: 22.7 };

const KB: usize = 1024;

#[rustfmt::skip]
static CHIPS: [Chip; 7] = [
    chip("stm32f411", &M4F, 512 * KB, 128 * KB, 100, "ST, data sheet DS10314 (STM32F411xE)"),
    chip("stm32f746", &M7, 1024 * KB, 320 * KB, 216, "ST, data sheet DS10916 (STM32F746xG)"),
    chip("stm32h743", &M7, 2048 * KB, 512 * KB, 480, "ST, data sheet DS12110 (STM32H743xI): AXI SRAM, the largest of its RAMs"),
    chip("nrf52840", &M4F, 1024 * KB, 256 * KB, 64, "Nordic Semiconductor, nRF52840 product specification"),
    chip("rp2040", &M0, 2048 * KB, 264 * KB, 133, "Raspberry Pi, RP2040 data sheet; flash of the Pico board"),
    chip("rp2350", &M33, 4096 * KB, 520 * KB, 150, "Raspberry Pi, RP2350 data sheet; flash of the Pico 2 board"),
    chip("esp32-c3", &RV32IMC, 4096 * KB, 384 * KB, 160, "Espressif, ESP32-C3 data sheet: 400 KB of SRAM less 16 KB of cache; flash of a 4 MB module"),
];

const fn chip(
    name: &'static str,
    core: &'static Core,
    flash: usize,
    ram: usize,
    mhz: u32,
    source: &'static str,
) -> Chip {
    Chip { name, core: Some(core), flash: Some(flash), ram: Some(ram), mhz: Some(mhz), source }
}

impl Chip {
    /// A chip of the table, or one without a name, with these sizes instead of its own.
    pub(super) fn of(chip: Option<&Self>, ram: Option<usize>, flash: Option<usize>) -> Self {
        let other = Self { name: "other", core: None, flash: None, ram: None, mhz: None, source: "--ram and --flash" };
        let chip = chip.cloned().unwrap_or(other);
        Self { ram: ram.or(chip.ram), flash: flash.or(chip.flash), ..chip }
    }
}

/// 'stm32f411, stm32f746, …'
pub(super) fn names() -> String {
    CHIPS.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ")
}

pub(super) fn by_name(name: &str) -> Result<&'static Chip, String> {
    let known = CHIPS.iter().find(|chip| chip.name.eq_ignore_ascii_case(name));
    known.ok_or_else(|| format!("unknown chip; known are {}. For another one give --ram and --flash", names()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use vit_engine::file::{Access, Checkpoint};
    use vit_engine::{Output, Plan, Precision};

    use super::*;

    /// Line by line: flash, statics, stack, instructions.
    #[test]
    fn the_figures_are_the_firmwares() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let budgets = fs::read_to_string(here.join("../examples/firmware/budgets.txt")).unwrap();
        let model = Checkpoint::open(here.join("models/fashion-vit"), Access::Read).unwrap();
        let model = model.load(Precision::Int8).unwrap();
        let plan = Plan::new(model.config(), Precision::Int8, Output::Logits, 1, None).unwrap();
        for (core, machine) in [
            (&M0, "mps2-an385"),
            (&M4F, "mps2-an386"),
            (&M7, "mps2-an500"),
            (&M33, "mps2-an505"),
            (&RV32IMC, "virt-imc"),
        ] {
            let line = budgets.lines().find(|line| line.split_whitespace().next() == Some(machine)).unwrap();
            let figures: Vec<usize> = line.split_whitespace().skip(1).map(|figure| figure.parse().unwrap()).collect();
            let [flash, _, stack, instructions] = figures[..] else { panic!("{line}") };
            assert_eq!([core.code_bytes, core.stack_bytes], [flash - model.weights().len(), stack], "{machine}");
            let per_mac = instructions as f64 / plan.macs() as f64;
            assert_eq!(core.instructions_per_mac, (per_mac * 10.0).round() / 10.0, "{machine}");
        }
    }
}
