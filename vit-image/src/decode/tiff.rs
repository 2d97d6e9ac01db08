//! TIFF: bilevel, grey, palette, RGB, CMYK, YCbCr, with and without alpha, of 1 to 16 bits; the first page.
use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};
use image::metadata::Orientation;

use super::{DecodeError, Limit, Samples, cmyk, high, jpeg, orientation};

const XMP: Tag = Tag::Unknown(700);
/// `PhotometricInterpretation` of a palette, and of grey.
const PALETTE: u16 = 3;
const GREY: u16 = 1;
/// `ExtraSamples` of alpha that the colours are multiplied by.
const ASSOCIATED: u16 = 1;

pub(super) fn decode(file: &[u8], limit: Limit) -> Result<(Samples, Orientation), DecodeError> {
    let (file, is_palette) = palette_as_grey(file);
    let damaged = |error: TiffError| of(&error);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = limit.bytes();
    limits.intermediate_buffer_size = limit.bytes();
    let mut decoder = Decoder::new(Cursor::new(&*file)).map_err(damaged)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let colours = decoder.colortype().map_err(damaged)?;
    let bands = usize::from(colours.num_samples());
    limit.check([width, height], 2 * bands + 3)?;
    let pixels = width as usize * height as usize;
    let orientation = orientation(&mut decoder);
    let map = if is_palette { Some(colour_map(&mut decoder)?) } else { None };
    let associated = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten();
    let associated = associated.is_some_and(|extra| extra.first() == Some(&ASSOCIATED));
    let mut decoded = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut decoded).map_err(damaged)?;
    let bits = colours.bit_depth();
    let samples = match decoded {
        DecodingResult::U8(samples) if bits < 8 => unpacked(&samples, bits, width as usize * bands),
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => samples.iter().map(high).collect(),
        _ => return Err(unsupported(colours, "of this sample format")),
    };
    let samples = if layout.planes > 1 && samples.len() == pixels * bands {
        // Planes one after another.
        (0..samples.len()).map(|i| samples[i % bands * pixels + i / bands]).collect()
    } else {
        samples
    };
    if bits < 8 && bands > 1 || samples.len() < pixels * bands {
        return Err(unsupported(colours, "in this layout"));
    }
    let samples = &samples[..pixels * bands];
    let pixels = || samples.chunks_exact(bands);
    let (channels, samples) = match colours {
        ColorType::Gray(_) if let Some(map) = map => {
            let colour = |index: &u8| map.get(usize::from(*index)).copied().unwrap_or_default();
            (3, samples.iter().flat_map(colour).collect())
        }
        // All ones are white.
        ColorType::Gray(bits @ (1 | 2 | 4)) => {
            (1, samples.iter().map(|level| level * (255 / ((1u8 << bits) - 1))).collect())
        }
        ColorType::Gray(8 | 16) => (1, samples.to_vec()),
        ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. } => {
            (1, pixels().map(|pixel| divided(pixel[0], pixel[1], associated)).collect())
        }
        ColorType::RGB(_) => (3, samples.to_vec()),
        ColorType::RGBA(_) => {
            let pixel = |pixel: &[u8]| [0, 1, 2].map(|i| divided(pixel[i], pixel[3], associated));
            (3, pixels().flat_map(pixel).collect())
        }
        ColorType::CMYK(_) | ColorType::CMYKA(_) => {
            (3, pixels().flat_map(|p| cmyk([p[0], p[1], p[2], p[3]])).collect())
        }
        ColorType::YCbCr(8) => (3, pixels().flat_map(|p| jpeg::rgb([p[0], p[1], p[2]])).collect()),
        other => return Err(unsupported(other, "")),
    };
    Ok((Samples { size: [width, height], channels, samples }, orientation))
}

/// A colour that was multiplied by its alpha.
fn divided(sample: u8, alpha: u8, associated: bool) -> u8 {
    match (associated, alpha) {
        (true, 1..) => (255 * u32::from(sample) / u32::from(alpha)).min(255) as u8,
        (true, 0) => 0,
        (false, _) => sample,
    }
}

/// Samples of fewer than 8 bits, of which each row begins in a new byte.
fn unpacked(bytes: &[u8], bits: u8, row: usize) -> Vec<u8> {
    let (per_byte, mask) = (8 / usize::from(bits), ((1u16 << bits) - 1) as u8);
    let sample = |line: &[u8], i: usize| line[i / per_byte] >> (8 - bits - (i % per_byte) as u8 * bits) & mask;
    let lines = bytes.chunks_exact(row.div_ceil(per_byte).max(1));
    lines.flat_map(|line| (0..row).map(move |i| sample(line, i))).collect()
}

fn orientation(decoder: &mut Decoder<Cursor<&[u8]>>) -> Orientation {
    let tag = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let xmp = decoder.get_tag_u8_vec(XMP).ok();
    tag.and_then(Orientation::from_exif).unwrap_or_else(|| orientation::find(None, xmp.as_deref()))
}

/// The palette: all reds, all greens, all blues, of 16 bits.
fn colour_map(decoder: &mut Decoder<Cursor<&[u8]>>) -> Result<Vec<[u8; 3]>, DecodeError> {
    let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(|error| of(&error))?;
    let count = map.len() / 3;
    Ok((0..count).map(|i| [0, 1, 2].map(|band| high(&map[band * count + i]))).collect())
}

/// The library reads no palettes. Its indices can be had by calling them levels of grey: the file with that in its first
/// directory, and whether it was one of a palette.
fn palette_as_grey(file: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let unchanged = (Cow::Borrowed(file), false);
    let little = file.starts_with(b"II");
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = file.get(at..at.checked_add(len)?)?;
        let digit = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        Some(if little { bytes.iter().rev().fold(0, digit) } else { bytes.iter().fold(0, digit) })
    };
    let entry = || -> Option<usize> {
        // Classic TIFF: 12 bytes an entry. BigTIFF: 20.
        let (first, header, size, value) = match number(2, 2)? {
            42 => (number(4, 4)?, 2, 12, 8),
            43 if usize::BITS == 64 => (number(8, 8)?, 8, 20, 12),
            _ => return None,
        };
        let entries = number(first, header)?.min(4096);
        (0..entries).find_map(|i| {
            let entry = first.checked_add(header)?.checked_add(i * size)?;
            let is_palette = number(entry, 2)? == usize::from(Tag::PhotometricInterpretation.to_u16())
                && number(entry + value, 2)? == usize::from(PALETTE);
            is_palette.then_some(entry + value)
        })
    };
    let Some(at) = entry() else { return unchanged };
    let mut file = file.to_vec();
    file[at..at + 2].copy_from_slice(&if little { GREY.to_le_bytes() } else { GREY.to_be_bytes() });
    (Cow::Owned(file), true)
}

fn unsupported(colours: ColorType, what: &str) -> DecodeError {
    DecodeError::Unsupported(format!("a TIFF with the colours {colours:?} {what}").trim_end().to_owned())
}

fn of(error: &TiffError) -> DecodeError {
    match error {
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => DecodeError::Truncated,
        TiffError::UnsupportedError(what) => DecodeError::Unsupported(what.to_string()),
        error => DecodeError::Damaged(error.to_string()),
    }
}
