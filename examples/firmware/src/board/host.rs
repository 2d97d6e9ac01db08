//! The computer that the firmware is developed on: it prints the same classes and logits, but measures nothing.
use std::fmt;
use std::io::{self, Write};

#[allow(dead_code)] // The program's entry point; see `main.rs`.
pub fn start() {
    if let Err(failure) = crate::firmware() {
        println!("{failure}");
        std::process::exit(1);
    }
}

/// Where text goes.
pub fn console() -> impl fmt::Write {
    struct Console;
    impl fmt::Write for Console {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            io::stdout().write_all(text.as_bytes()).map_err(|_| fmt::Error)
        }
    }
    Console
}

/// A host's stack is not measured.
pub struct Painted;

impl Painted {
    pub fn new() -> Self {
        Self
    }

    /// Bytes of stack used, and bytes that there are.
    pub fn high_water_mark(&self) -> Option<[usize; 2]> {
        None
    }
}

/// Instructions executed so far, if they are counted.
pub fn instructions() -> Option<u64> {
    None
}
