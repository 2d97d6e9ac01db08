//! What bad input leads to: an error that says what is wrong.
use core::fmt::Write;

use vit_engine::{Aligned, Isa, Model, Output, Plan, Serial};

use crate::Failure;
use crate::{CONFIG, IMAGES, MODEL, PRECISION, logits};

/// Prints the error of each kind of bad input.
pub fn show(arena: &mut [u8], out: &mut impl Write) -> Result<(), Failure> {
    let models: [(&str, &[u8]); 4] = [
        ("no model", &[]),
        ("half of the header", &MODEL[..2048]),
        ("a model that lacks its last byte", &MODEL[..MODEL.len() - 1]),
        ("another file", &Aligned(*b"MZ\x90\0................................").0),
    ];
    for (what, model) in models {
        match Model::from_packed(model, Isa::best()) {
            Ok(_) => writeln!(out, "{what}: accepted")?,
            Err(error) => writeln!(out, "{what}: {error}")?,
        }
    }
    let model = Model::from_packed(MODEL, Isa::best())?;
    let pixels = IMAGES.first().map_or(&[][..], |(_, pixels)| *pixels);
    let mut attempt = |what, arena: &mut [u8], pixels| match logits(&model, arena, pixels, 1, &Serial) {
        Ok(_) => writeln!(out, "{what}: accepted"),
        Err(error) => writeln!(out, "{what}: {error}"),
    };
    attempt("an arena that is too small", &mut arena[..64], pixels)?;
    attempt("an arena that is misaligned", &mut arena[1..], pixels)?;
    attempt("a picture that lacks its last row", arena, &pixels[..pixels.len() - CONFIG.image[1]])?;
    attempt("no picture", arena, &[])?;
    match Plan::with_blocks(&CONFIG, PRECISION, Output::Logits, 1, 1, 0) {
        Ok(_) => writeln!(out, "blocks of no tokens: accepted")?,
        Err(error) => writeln!(out, "blocks of no tokens: {error}")?,
    }
    Ok(())
}
