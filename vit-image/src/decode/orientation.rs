//! Which way is up.
use image::metadata::Orientation;

/// Where Pillow looks for it: in EXIF, and where that does not say it, in XMP.
pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let in_exif = exif.and_then(|exif| {
        // WebP files have what precedes EXIF in a JPEG, or have it not.
        Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
    });
    in_exif.or_else(|| xmp.and_then(in_xmp)).unwrap_or(Orientation::NoTransforms)
}

/// `tiff:Orientation="6"` or `tiff:Orientation>6`.
fn in_xmp(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let digit = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(start, _)| {
        let value = &xmp[start + NAME.len()..];
        let value = value.strip_prefix(b"=\"").or(value.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit())
    })?;
    Orientation::from_exif(digit - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exif_goes_before_xmp() {
        let exif = |value: u8| {
            let head = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
            [&head[..], &[value, 0, 0, 0], &[0; 4]].concat()
        };
        let xmp = b"<rdf:Description tiff:Orientation=\"8\"/>";
        assert_eq!(find(Some(&exif(6)), Some(xmp)), Orientation::Rotate90);
        assert_eq!(find(Some(&[b"Exif\0\0", &exif(3)[..]].concat()), None), Orientation::Rotate180);
        assert_eq!(find(None, Some(xmp)), Orientation::Rotate270);
        assert_eq!(find(Some(b"junk"), Some(b"<tiff:Orientation>2</tiff:Orientation>")), Orientation::FlipHorizontal);
        for nothing in
            [&b"tiff:Orientation"[..], b"tiff:Orientation=\"", b"tiff:Orientation=\"x", b"tiff:Orientation>9"]
        {
            assert_eq!(find(Some(&exif(0)), Some(nothing)), Orientation::NoTransforms);
        }
    }
}
