//! EXIF in a PNG's text, as ImageMagick writes it and Pillow reads it.
use std::io::Cursor;

const KEYWORD: &str = "Raw profile type exif";

/// The most bytes that the text may have: EXIF has at most 64 KB, and two digits stand for a byte.
const LONGEST: usize = 256 << 10;

/// The bytes of the chunk `tEXt`, `zTXt` or `iTXt` with this keyword: an empty line, a name, a length, then lines of
/// hexadecimal digits.
pub(super) fn exif_in_text(file: &[u8]) -> Option<Vec<u8>> {
    let reader = png::Decoder::new(Cursor::new(file)).read_info().ok()?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let text = if let Some(chunk) = plain {
        chunk.text.clone()
    } else if let Some(chunk) = info.compressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(LONGEST).ok()?;
        chunk.get_text().ok()?
    } else {
        let mut chunk = info.utf8_text.iter().find(|chunk| chunk.keyword == KEYWORD)?.clone();
        chunk.decompress_text_with_limit(LONGEST).ok()?;
        chunk.get_text().ok()?
    };
    let digits: Vec<u32> = text
        .split('\n')
        .skip(3)
        .flat_map(str::chars)
        .filter(|character| !character.is_ascii_whitespace())
        .map(|character| character.to_digit(16))
        .collect::<Option<_>>()?;
    digits.as_chunks().0.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}
