//! JPEG: baseline and progressive; grey, YCbCr, RGB, CMYK, YCCK.
//!
//! The decoder is a port of libjpeg-turbo, Pillow's decoder, with the same bits. Others differ in how they upsample colours.
use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use super::{DecodeError, Limit, Samples, cmyk, orientation};

/// Real files have a dozen. Each goes over the whole picture again.
const MOST_SCANS: usize = 500;

pub(super) fn decode(file: &[u8], limit: Limit) -> Result<(Samples, Orientation), DecodeError> {
    let failed = |error: JpegError| of(&error);
    let limits = DecodeLimits { max_pixels: u64::MAX, max_scans: MOST_SCANS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(file, limits).map_err(failed)?;
    let header = decoder.header();
    let size = [u32::from(header.width), u32::from(header.height)];
    let components = header.components.len();
    if header.precision != 8 {
        return Err(DecodeError::Unsupported(format!("a JPEG of {} bits", header.precision)));
    }
    // Coefficients of 16 bits, where it is progressive, the samples, and their copy.
    limit.check(size, 3 * components + 3)?;
    if !is_whole(file) {
        return Err(DecodeError::Truncated);
    }
    let (format, channels) = match (components, decoder.jpeg_color_space()) {
        (1, _) => (PixelFormat::Grayscale, 1),
        (3, _) => (PixelFormat::Rgb, 3),
        (4, _) => (PixelFormat::Cmyk, 4),
        (_, space) => return Err(DecodeError::Unsupported(format!("a JPEG with the colours {space:?}"))),
    };
    decoder.set_output_format(format);
    let decoded = decoder.decode_image().map_err(failed)?;
    let expected = size[0] as usize * size[1] as usize * channels;
    if decoded.data.len() != expected || [decoded.width, decoded.height] != size.map(|side| side as usize) {
        return Err(DecodeError::Damaged(format!("{} samples, where there should be {expected}", decoded.data.len())));
    }
    let orientation = orientation::find(decoded.exif_data.as_deref(), decoded.xmp_data.as_deref());
    let (channels, samples) = match format {
        // Inks are stored inverted, as Adobe's programs do it and as Pillow takes it, marked so or not.
        PixelFormat::Cmyk => {
            (3, decoded.data.as_chunks().0.iter().flat_map(|inks: &[u8; 4]| cmyk(inks.map(|ink| 255 - ink))).collect())
        }
        _ => (channels, decoded.data),
    };
    Ok((Samples { size, channels, samples }, orientation))
}

/// ITU-T T.871's YCbCr, rounded.
pub(super) fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [f64::from(y), f64::from(cb) - 128.0, f64::from(cr) - 128.0];
    [y + 1.402 * cr, y - 0.344_136_286 * cb - 0.714_136_286 * cr, y + 1.772 * cb].map(|x| x.round() as u8)
}

/// Whether the file goes on to its end-of-image marker. (A thumbnail's stands in a segment, which is skipped.)
fn is_whole(file: &[u8]) -> bool {
    let mut rest = file.get(2..).unwrap_or_default();
    loop {
        // The next marker: 0xff, not followed by a stuffed 0, by more 0xff, or by a restart within a scan.
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7);
        let Some(start) = rest.windows(2).position(is_marker) else { return false };
        match rest[start + 1] {
            0xd9 => return true,
            // Markers without a segment.
            0x01 | 0xd8 => rest = &rest[start + 2..],
            _ => match rest[start + 2..] {
                [high, low, ..] => {
                    let length = usize::from(u16::from_be_bytes([high, low])).max(2);
                    let Some(behind) = rest.get(start + 2 + length..) else { return false };
                    rest = behind;
                }
                _ => return false,
            },
        }
    }
}

fn of(error: &JpegError) -> DecodeError {
    match error {
        JpegError::UnexpectedEof => DecodeError::Truncated,
        JpegError::Unsupported(what) => DecodeError::Unsupported(what.clone()),
        error => DecodeError::Damaged(error.to_string()),
    }
}
