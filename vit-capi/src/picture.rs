//! Preprocessing: from a picture to the model's input, as the model's own files say.
use std::ffi::c_void;
use std::fmt::Display;

use vit_image::Picture;

use crate::error::{Failed, Report, VIT_ARGUMENT, VIT_MODEL, VIT_PIXELS, call, vit_error, vit_status};
use crate::memory;
use crate::model::{Kind, vit_model};

/// Larger pictures are refused before they are decoded.
const MAX_PIXELS: u64 = 100_000_000;

/// Decodes a picture file in memory (PNG, JPEG, WebP, GIF, BMP, TIFF), and resizes, crops and normalises it as the
/// model's files say: what vit_model_forward takes for one image. `pixels` has channels x height x width floats.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_preprocess(
    model: *const vit_model,
    file: *const c_void,
    file_len: usize,
    pixels: *mut f32,
    pixels_len: usize,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        let file: *const u8 = file.cast();
        memory::disjoint(
            &[("file", memory::range(file, file_len)), ("pixels", memory::range(pixels, pixels_len))],
            report,
        )?;
        // SAFETY: as the caller promises; the buffers do not overlap.
        let (model, file, pixels) = unsafe {
            (
                memory::reference(model, "model", report)?,
                memory::slice(file, file_len, "file", report)?,
                memory::slice_mut(pixels, pixels_len, "pixels", report)?,
            )
        };
        let decode = |channels| Picture::decode(file, channels, MAX_PIXELS);
        preprocess(model, decode, VIT_PIXELS, pixels, report)
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// The same for a picture that is decoded already: 8-bit `samples`, [height, width, channels] with the channels of the
/// model, which for 3 are red, green, blue.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_preprocess_samples(
    model: *const vit_model,
    samples: *const u8,
    height: usize,
    width: usize,
    pixels: *mut f32,
    pixels_len: usize,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        let model = unsafe { memory::reference(model, "model", report) }?;
        let len = height.checked_mul(width).and_then(|len| len.checked_mul(model.model().config().channels));
        let len = len.ok_or_else(|| report.argument("height × width × channels is too large"))?;
        memory::disjoint(
            &[("samples", memory::range(samples, len)), ("pixels", memory::range(pixels, pixels_len))],
            report,
        )?;
        // SAFETY: as the caller promises; the buffers do not overlap.
        let (samples, pixels) = unsafe {
            (memory::slice(samples, len, "samples", report)?, memory::slice_mut(pixels, pixels_len, "pixels", report)?)
        };
        let picture = |channels| Picture::new([height, width], channels, samples.to_vec());
        preprocess(model, picture, VIT_ARGUMENT, pixels, report)
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// `status` is that of a picture that cannot be had.
fn preprocess<E: Display>(
    model: &vit_model,
    picture: impl FnOnce(usize) -> Result<Picture, E>,
    status: vit_status,
    out: &mut [f32],
    report: &mut Report<'_>,
) -> Result<(), Failed> {
    let vit_model(Kind::Opened(opened)) = model else {
        return Err(report.argument("a model of vit_model_place has no preprocessing: use vit_model_open_bytes"));
    };
    let c = opened.loaded.config();
    let preprocessing = match &opened.loaded.preprocessing {
        Ok(preprocessing) if matches!(c.channels, 1 | 3) && preprocessing.fits(c.channels) => preprocessing,
        Ok(_) => {
            let message = format_args!("the preprocessing in the model's files is not for its {} channels", c.channels);
            return Err(report.fail(VIT_MODEL, message));
        }
        Err(error) => return Err(report.fail(VIT_MODEL, error)),
    };
    let [height, width] = c.image;
    let len = c.channels * height * width;
    if out.len() != len {
        let message = format_args!("pixels has {} floats, expected {}×{height}×{width}", out.len(), c.channels);
        return Err(report.argument(message));
    }
    let picture = picture(c.channels).map_err(|error| report.fail(status, error))?;
    let size = preprocessing.output_size(picture.size()).map_err(|error| report.fail(VIT_PIXELS, error))?;
    if size != c.image {
        let [to_height, to_width] = size;
        let message =
            format_args!("this picture becomes {to_width}×{to_height} pixels, and the model takes {width}×{height}");
        return Err(report.fail(VIT_PIXELS, message));
    }
    preprocessing.apply(&picture, MAX_PIXELS, out).map_err(|error| report.fail(VIT_PIXELS, error))
}
