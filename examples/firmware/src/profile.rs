//! Runs a forward pass and counts the instructions of its stages.
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use vit_engine::{Executor, Job, Serial, Stage, Team};

use crate::board::instructions;

/// Everything on the one core that there is, counted.
#[derive(Default)]
pub struct Profile([AtomicU32; Stage::ALL.len()]);

impl Executor for Profile {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        pass(self);
    }
}

impl Team for Profile {
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_)) {
        let start = instructions();
        Serial.run(stage, job);
        let index = Stage::ALL.iter().position(|known| *known == stage);
        if let (Some(start), Some(end), Some(count)) = (start, instructions(), index.and_then(|i| self.0.get(i))) {
            // Cores without compare-and-swap have no `fetch_add`; nothing else writes it.
            let before = count.load(Ordering::Relaxed);
            count.store(before.wrapping_add((end - start) as u32), Ordering::Relaxed);
        }
    }
}

impl Profile {
    /// A line for each stage.
    pub fn show(&self, out: &mut impl Write) -> fmt::Result {
        for (stage, count) in Stage::ALL.iter().zip(&self.0) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                writeln!(out, "# {stage:?}: {count} instructions")?;
            }
        }
        Ok(())
    }
}
