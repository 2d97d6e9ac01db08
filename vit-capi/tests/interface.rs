//! The interface as C sees it, but called from Rust: numbers equal to the engine's, and what is wrong gets an error.
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use vit_capi::*;
use vit_engine::file::{Access, Checkpoint};
use vit_engine::{AlignedBox, Output, Precision, Session, SessionOptions};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../vit-cli/models/fashion-vit");
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../vit-cli/models/fashion-vit/samples/coat-6.png");

fn text(chars: &[c_char]) -> String {
    // SAFETY: the library ends its texts with a NUL.
    unsafe { CStr::from_ptr(chars.as_ptr()) }.to_str().unwrap().to_owned()
}

fn no_error() -> vit_error {
    vit_error { status: 0, message: [0; 508] }
}

/// An opened model that is closed at the end.
struct Model(*mut vit_model);

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is not used again.
        unsafe { vit_model_close(self.0) };
    }
}

fn options() -> vit_options {
    vit_options { precision: null(), level: null(), family: null(), threads: 2, no_mmap: false }
}

fn open(path: &str, options: *const vit_options) -> Result<Model, (vit_status, String)> {
    let (path, mut model, mut error) = (CString::new(path).unwrap(), null_mut(), no_error());
    // SAFETY: all pointers are to what they are for.
    match unsafe { vit_model_open(path.as_ptr(), options, &raw mut model, &raw mut error) } {
        VIT_OK => Ok(Model(model)),
        status => Err((status, text(&error.message))),
    }
}

fn plan(model: *const vit_model, output: &str, budget: usize) -> Result<vit_plan, (vit_status, String)> {
    let (output, mut error) = (CString::new(output).unwrap(), no_error());
    let mut plan = std::mem::MaybeUninit::uninit();
    // SAFETY: all pointers are to what they are for.
    match unsafe { vit_model_plan(model, output.as_ptr(), 1, budget, plan.as_mut_ptr(), &raw mut error) } {
        // SAFETY: the call has written it.
        VIT_OK => Ok(unsafe { plan.assume_init() }),
        status => Err((status, text(&error.message))),
    }
}

fn forward(model: *const vit_model, plan: &vit_plan, pixels: &[f32]) -> Vec<u32> {
    let (mut arena, mut out) = (AlignedBox::new(plan.arena_bytes).unwrap(), vec![0.0f32; plan.output_len]);
    let mut error = no_error();
    // SAFETY: all pointers are to what they are for.
    let status = unsafe {
        let (arena, len) = (arena.as_mut_ptr().cast(), arena.len());
        let (start, count) = (pixels.as_ptr(), pixels.len());
        vit_model_forward(model, plan, start, count, arena, len, out.as_mut_ptr(), out.len(), &raw mut error)
    };
    assert_eq!(status, VIT_OK, "{}", text(&error.message));
    out.iter().map(|x| x.to_bits()).collect()
}

fn pixels(model: *const vit_model) -> Vec<f32> {
    let (file, mut pixels, mut error) = (fs::read(SAMPLE).unwrap(), vec![0.0; 28 * 28], no_error());
    // SAFETY: all pointers are to what they are for.
    let status = unsafe {
        let out = (pixels.as_mut_ptr(), pixels.len());
        vit_model_preprocess(model, file.as_ptr().cast(), file.len(), out.0, out.1, &raw mut error)
    };
    assert_eq!(status, VIT_OK, "{}", text(&error.message));
    pixels
}

fn expected(precision: Precision, output: Output, pixels: &[f32]) -> Vec<u32> {
    let loaded = Arc::new(Checkpoint::open(MODEL, Access::Map).unwrap().load(precision).unwrap());
    let mut session = Session::new(loaded, SessionOptions { output, ..Default::default() }).unwrap();
    let mut out = vec![0.0; session.output_len(1)];
    session.forward(pixels, &mut out).unwrap();
    out.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_engines_bits() {
    for (name, precision) in [(c"f32", Precision::F32), (c"int8", Precision::Int8)] {
        let model = open(MODEL, &vit_options { precision: name.as_ptr(), ..options() }).unwrap();
        let pixels = pixels(model.0);
        for (name, output) in
            [("logits", Output::Logits), ("embedding", Output::Embedding), ("layer:1", Output::Layer(1))]
        {
            let want = expected(precision, output, &pixels);
            let whole = plan(model.0, name, 0).unwrap();
            let least = plan(model.0, name, 1).unwrap_err();
            assert_eq!(least.0, VIT_MEMORY);
            assert_eq!(forward(model.0, &whole, &pixels), want, "{name}");
            assert!(whole.arena_bytes.is_multiple_of(VIT_ALIGN)); // as C11's aligned_alloc wants it
            let small = plan(model.0, name, whole.arena_bytes * 3 / 4).unwrap();
            assert!(small.arena_bytes <= whole.arena_bytes * 3 / 4);
            assert_eq!(forward(model.0, &small, &pixels), want, "{name}");
        }
        let mut info = std::mem::MaybeUninit::uninit();
        // SAFETY: all pointers are to what they are for; the call writes the info.
        let info: vit_info = unsafe {
            assert_eq!(vit_model_info(model.0, info.as_mut_ptr(), null_mut()), VIT_OK);
            info.assume_init()
        };
        assert_eq!([info.channels, info.height, info.width, info.classes], [1, 28, 28, 10]);
        assert_eq!(text(&info.precision), precision.to_string());
        // SAFETY: the model is open.
        let label = |index| unsafe { vit_model_label(model.0, index) };
        // SAFETY: a name ends with a NUL.
        assert_eq!(unsafe { CStr::from_ptr(label(4)) }, c"Coat");
        assert!(label(10).is_null());
    }
}

/// The same model packed: opened from its bytes, and placed in memory of the caller.
#[test]
fn packed_models_in_memory() {
    let loaded = Checkpoint::open(MODEL, Access::Map).unwrap().load(Precision::Int8).unwrap();
    let mut file = Vec::new();
    loaded.write_packed(&mut file).unwrap();
    let mut packed = AlignedBox::new(file.len()).unwrap();
    packed.copy_from_slice(&file);
    let mut storage = AlignedBox::new(VIT_MODEL_BYTES).unwrap();

    let (mut opened, mut placed, mut error) = (null_mut(), null(), no_error());
    let place = |storage: *mut u8, packed: *const u8, len, placed: *mut _, error: *mut _| {
        // SAFETY: all pointers are to what they are for.
        unsafe { vit_model_place(storage.cast(), VIT_MODEL_BYTES, packed.cast(), len, placed, error) }
    };
    // SAFETY: all pointers are to what they are for.
    let status = unsafe { vit_model_open_bytes(file.as_ptr().cast(), file.len(), null(), &raw mut opened, null_mut()) };
    assert_eq!(status, VIT_OK);
    let opened = Model(opened);
    assert_eq!(place(storage.as_mut_ptr(), packed.as_ptr(), packed.len(), &raw mut placed, &raw mut error), VIT_OK);
    let pixels = pixels(opened.0);
    let want = expected(Precision::Int8, Output::Logits, &pixels);
    for model in [opened.0.cast_const(), placed] {
        let plan = plan(model, "logits", 0).unwrap();
        assert_eq!(forward(model, &plan, &pixels), want);
    }

    // From a callback, which may also stop the pass.
    struct Source<'a> {
        pixels: &'a [f32],
        calls: usize,
        stop: bool,
    }
    unsafe extern "C" fn read(context: *mut c_void, _: usize, top: usize, strip: *mut f32, len: usize) -> c_int {
        // SAFETY: the context is this test's, and the strip has `len` floats.
        let (source, strip) =
            unsafe { (&mut *context.cast::<Source<'_>>(), std::slice::from_raw_parts_mut(strip, len)) };
        strip.copy_from_slice(&source.pixels[28 * top..][..len]);
        source.calls += 1;
        if source.stop { 42 } else { 0 }
    }
    let plan = plan(placed, "logits", 0).unwrap();
    let (mut arena, mut out) = (AlignedBox::new(plan.arena_bytes).unwrap(), vec![0.0f32; plan.output_len]);
    let mut source = Source { pixels: &pixels, calls: 0, stop: false };
    let mut rows = |source: &mut Source<'_>, error: *mut vit_error, out: &mut [f32]| {
        let (context, arena, len) = ((&raw mut *source).cast(), arena.as_mut_ptr().cast(), arena.len());
        // SAFETY: all pointers are to what they are for.
        unsafe {
            vit_model_forward_rows(
                placed,
                &raw const plan,
                Some(read),
                context,
                arena,
                len,
                out.as_mut_ptr(),
                out.len(),
                error,
            )
        }
    };
    assert_eq!(rows(&mut source, null_mut(), &mut out), VIT_OK);
    assert_eq!(out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want);
    assert_eq!(source.calls, 7);
    source.stop = true;
    assert_eq!(rows(&mut source, &raw mut error, &mut out), VIT_PIXELS);
    assert!(text(&error.message).contains("42"));

    // Damaged, truncated, misaligned.
    for (start, len, status) in
        [(packed.as_ptr(), 100, VIT_MODEL), (packed.as_ptr(), 0, VIT_MODEL), (packed[1..].as_ptr(), 64, VIT_MODEL)]
    {
        assert_eq!(place(storage.as_mut_ptr(), start, len, &raw mut placed, &raw mut error), status);
        assert!(!text(&error.message).is_empty());
    }
    let mut moved = AlignedBox::new(file.len() + 4).unwrap();
    moved[4..].copy_from_slice(&file);
    assert_eq!(
        place(storage.as_mut_ptr(), moved[4..].as_ptr(), file.len(), &raw mut placed, &raw mut error),
        VIT_MEMORY
    );
    // A placed model has no preprocessing.
    assert_eq!(place(storage.as_mut_ptr(), packed.as_ptr(), packed.len(), &raw mut placed, null_mut()), VIT_OK);
    let mut pixels = vec![0.0; 28 * 28];
    // SAFETY: all pointers are to what they are for.
    let status = unsafe {
        vit_model_preprocess(
            placed,
            file.as_ptr().cast(),
            file.len(),
            pixels.as_mut_ptr(),
            pixels.len(),
            &raw mut error,
        )
    };
    assert_eq!(status, VIT_ARGUMENT);
}

#[test]
fn bad_arguments_are_errors() {
    let (status, message) = open("/nowhere/vit", null()).map(|_| ()).unwrap_err();
    assert_eq!(status, VIT_FILE, "{message}");
    let (status, message) = open(SAMPLE, null()).map(|_| ()).unwrap_err();
    assert_ne!(status, VIT_OK, "{message}");
    for (option, message) in [
        (vit_options { precision: c"int7".as_ptr(), ..options() }, "precision: "),
        (vit_options { level: c"avx3".as_ptr(), ..options() }, "level: "),
        (vit_options { precision: c"\xff".as_ptr(), ..options() }, "UTF-8"),
    ] {
        let (status, found) = open(MODEL, &raw const option).map(|_| ()).unwrap_err();
        assert_eq!(status, VIT_ARGUMENT, "{found}");
        assert!(found.contains(message), "{found}");
    }

    let model = open(MODEL, &options()).unwrap();
    assert_eq!(plan(null(), "logits", 0).map(|_| ()).unwrap_err(), (VIT_ARGUMENT, "model is NULL".into()));
    for name in ["nothing", "layer:99", "registers", "attention:0"] {
        assert_eq!(plan(model.0, name, 0).map(|_| ()).unwrap_err().0, VIT_ARGUMENT, "{name}");
    }
    let good = plan(model.0, "logits", 0).unwrap();
    let (mut arena, mut out) = (AlignedBox::new(good.arena_bytes + 1).unwrap(), [0.0f32; 10]);
    let mut pixels = vec![0.5f32; 28 * 28];
    let (p, a, o) = (pixels.as_mut_ptr(), arena.as_mut_ptr(), out.as_mut_ptr());
    let (pn, an) = (pixels.len(), good.arena_bytes);
    let run = |plan: *const vit_plan, pixels: *const f32, pn, arena: *mut u8, an, out: *mut f32, on| {
        let mut error = no_error();
        // SAFETY: what is wrong among these arguments is what the library has to notice before it uses them.
        let status = unsafe { vit_model_forward(model.0, plan, pixels, pn, arena.cast(), an, out, on, &raw mut error) };
        assert_eq!(status, error.status);
        (status, text(&error.message))
    };
    assert_eq!(run(&good, p, pn, a, an, o, 10), (VIT_OK, String::new()));
    let misaligned = p.cast::<u8>().wrapping_add(1).cast();
    for (result, status, message) in [
        (run(null(), p, pn, a, an, o, 10), VIT_ARGUMENT, "plan is NULL"),
        (run(&good, null(), pn, a, an, o, 10), VIT_ARGUMENT, "pixels is NULL"),
        (run(&good, null(), 0, a, an, o, 10), VIT_ARGUMENT, ""),
        (run(&good, misaligned, pn - 1, a, an, o, 10), VIT_ARGUMENT, "pixels is misaligned"),
        (run(&good, p, pn - 1, a, an, o, 10), VIT_ARGUMENT, "pixels: "),
        (run(&good, p, usize::MAX / 2, a, an, o, 10), VIT_ARGUMENT, ""),
        (run(&good, p, pn, null_mut(), an, o, 10), VIT_ARGUMENT, "arena is NULL"),
        (run(&good, p, pn, a, an - 1, o, 10), VIT_MEMORY, "the arena: "),
        (run(&good, p, pn, a.wrapping_add(1), an, o, 10), VIT_MEMORY, "the arena: "),
        (run(&good, p, pn, a, an, null_mut(), 10), VIT_ARGUMENT, "output is NULL"),
        (run(&good, p, pn, a, an, o, 9), VIT_ARGUMENT, "expected 10"),
        (run(&good, p, pn, a, an, p, 10), VIT_ARGUMENT, "pixels and output overlap"),
        (run(&good, a.cast(), 4, a, an, o, 10), VIT_ARGUMENT, "pixels and arena overlap"),
    ] {
        assert_eq!(result.0, status, "{}", result.1);
        assert!(result.1.contains(message), "{}", result.1);
    }
    // A plan that was changed is noticed, whatever is in it.
    let changed = [
        vit_plan { rows: 0, ..good },
        vit_plan { rows: 1, ..good },
        vit_plan { batch: usize::MAX, ..good },
        vit_plan { output: [b'x' as c_char; 32], ..good },
        vit_plan { arena_bytes: 0, ..good },
    ];
    for plan in changed {
        assert_eq!(run(&plan, p, pn, a, an, o, 10).0, VIT_ARGUMENT);
    }
    // NaN pixels give NaN.
    pixels[100] = f32::NAN;
    assert!(forward(model.0, &good, &pixels).iter().all(|bits| f32::from_bits(*bits).is_nan()));
}

#[test]
fn pictures_in_memory() {
    let model = open(MODEL, &options()).unwrap();
    let want = pixels(model.0);
    let samples = image(SAMPLE);
    let (mut found, mut error) = (vec![0.0f32; 28 * 28], no_error());
    let mut from = |height, width, len| {
        // SAFETY: all pointers are to what they are for.
        unsafe {
            let out = found.as_mut_ptr();
            vit_model_preprocess_samples(model.0, samples.as_ptr(), height, width, out, len, &raw mut error)
        }
    };
    assert_eq!(from(28, 28, 28 * 28), VIT_OK);
    assert_eq!(from(28, 28, 28), VIT_ARGUMENT);
    assert_eq!(from(0, 28, 28 * 28), VIT_ARGUMENT);
    assert_eq!(from(usize::MAX, 28, 28 * 28), VIT_ARGUMENT);
    assert_eq!(found, want);
    let mut junk = |file: &[u8]| {
        // SAFETY: all pointers are to what they are for.
        unsafe {
            let (out, len) = (found.as_mut_ptr(), found.len());
            vit_model_preprocess(model.0, file.as_ptr().cast(), file.len(), out, len, &raw mut error)
        }
    };
    let file = fs::read(SAMPLE).unwrap();
    for damaged in [&b""[..], b"GIF89a", &file[..file.len() / 2]] {
        assert_eq!(junk(damaged), VIT_PIXELS);
    }
}

fn image(path: &str) -> Vec<u8> {
    let picture = vit_image::Picture::decode(&fs::read(path).unwrap(), 1, 1 << 20).unwrap();
    picture.samples().to_vec()
}
