//! GIF: the first frame, on a canvas as Pillow fills it.
use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::metadata::Orientation;

use super::{DecodeError, Limit, Samples};

pub(super) fn decode(file: &[u8], limit: Limit) -> Result<(Samples, Orientation), DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited);
    // A frame may reach beyond the screen, which then grows.
    options.check_frame_consistency(false);
    let mut decoder = options.read_info(file).map_err(|error| of(&error))?;
    let screen = [decoder.width(), decoder.height()];
    let frame = decoder.next_frame_info().map_err(|error| of(&error))?;
    let frame = frame.ok_or_else(|| DecodeError::Damaged("there is no frame".into()))?;
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let size = [usize::from(screen[0]).max(left + width), usize::from(screen[1]).max(top + height)];
    let size32 = size.map(|side| side as u32);
    // Indices of the frame, and of the canvas, colours.
    limit.check(size32, 5)?;
    let background = frame.transparent.unwrap_or(0);
    let palette = frame.palette.clone();
    let mut indices = vec![0; width * height];
    if !indices.is_empty() {
        decoder.read_into_buffer(&mut indices).map_err(|error| of(&error))?;
    }
    let palette = palette.or(decoder.global_palette().map(<[u8]>::to_vec));
    let mut canvas = vec![background; size[0] * size[1]];
    for (row, line) in indices.chunks_exact(width.max(1)).enumerate() {
        canvas[(top + row) * size[0] + left..][..width].copy_from_slice(line);
    }
    let orientation = Orientation::NoTransforms;
    let Some(palette) = palette else {
        // Without a palette indices are levels.
        return Ok((Samples { size: size32, channels: 1, samples: canvas }, orientation));
    };
    // An index beyond the palette is black.
    let colour = |index: &u8| palette.as_chunks::<3>().0.get(usize::from(*index)).copied().unwrap_or_default();
    Ok((Samples { size: size32, channels: 3, samples: canvas.iter().flat_map(colour).collect() }, orientation))
}

fn of(error: &DecodingError) -> DecodeError {
    match error {
        DecodingError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => DecodeError::Truncated,
        DecodingError::EndCodeNotFound => DecodeError::Truncated,
        error => DecodeError::Damaged(error.to_string()),
    }
}
