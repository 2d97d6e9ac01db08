//! The WebAssembly module of the npm package `vit-web`, whose `lib/module.js` is its only caller.
//!
//! An instance of the module holds one model: its memory goes when the instance goes, as WebAssembly's memory cannot
//! shrink. Functions take and return numbers. Bytes pass through memory that the module names: [`vit_file`] for a model's
//! file, [`vit_input`] for pictures and names; [`vit_result`], [`vit_painted`] and [`vit_text`] for what comes back. A
//! status is 1 where a call succeeded, 0 where it failed: then [`vit_text`] is the message.
#![allow(unsafe_code, reason = "symbols without mangling; there is no other unsafe code")]

mod model;
mod picture;
mod show;
#[cfg(feature = "threads")]
mod threads;

use std::cell::RefCell;
use std::fmt::Display;

use vit_engine::AlignedBox;
use vit_engine::packed::{Header, PackedError};

use model::Opened;

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::default());
}

/// All that an instance holds.
#[derive(Default)]
struct State {
    /// A model's file, or its beginning, until it is opened.
    file: Option<AlignedBox>,
    model: Option<Opened>,
    input: Vec<u8>,
    text: String,
    facts: [u32; FACTS],
    result: Vec<f32>,
    painted: Vec<u8>,
}

/// The numbers of [`vit_facts`].
const FACTS: usize = 18;

/// A call that failed, and its message.
struct Failed(String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

type Answer<T = ()> = Result<T, Failed>;

/// Runs the body of a call; the message of an error becomes the text.
fn call<T: Default>(body: impl FnOnce(&mut State) -> Answer<T>) -> T {
    STATE.with_borrow_mut(|state| {
        body(state).unwrap_or_else(|Failed(message)| {
            state.text = message;
            T::default()
        })
    })
}

fn status(body: impl FnOnce(&mut State) -> Answer) -> u32 {
    call(|state| body(state).map(|()| 1))
}

impl State {
    fn model(&mut self) -> Answer<&mut Opened> {
        self.model.as_mut().ok_or_else(|| "no model is open".into())
    }
}

/// Memory for the first `len` bytes of a model's file, in which those that were there stay: 0 if it is refused.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_file(len: usize) -> usize {
    call(|state| {
        let mut file = AlignedBox::new(len)?;
        if let Some(before) = &state.file {
            let both = before.len().min(len);
            file[..both].copy_from_slice(&before[..both]);
        }
        let place = file.as_ptr().addr();
        state.file = Some(file);
        Ok(place)
    })
}

/// Reads the header of the file, of which `len` bytes are there: 1 and the [facts](vit_facts) if it is complete, 2 if it
/// goes on behind them, 0 if it is no header.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_header(len: usize) -> u32 {
    call(|state| {
        let file = state.file.as_deref().and_then(|file| file.get(..len)).ok_or("vit_file gave less memory")?;
        match Header::read(file) {
            Ok(header) => {
                (state.facts, state.text) = model::describe(&header)?;
                Ok(1)
            }
            Err(PackedError::Truncated) => Ok(2),
            Err(error) => Err(error.into()),
        }
    })
}

/// What a header says: bytes of the file, of its weights and of the arena; channels, height and width of the input, and of
/// a patch, rows and columns of patches; tokens, dim, depth, heads, those of an attention pool; classes, elements of the
/// embedding, whether pictures can be prepared. The text has the precision, the level and the names of the classes, with a
/// NUL behind each.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_facts() -> usize {
    STATE.with_borrow(|state| state.facts.as_ptr().addr())
}

/// Opens the model in the file, whose bytes are all there, and keeps it where it is.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_open() -> u32 {
    status(|state| {
        let file = state.file.take().ok_or("there is no file to open")?;
        state.model = Some(Opened::new(file)?);
        Ok(())
    })
}

/// Memory for a picture's file or samples, or for a name: 0 if it is refused.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_input(len: usize) -> usize {
    call(|state| {
        state.input = Vec::new();
        let refused = |_| Failed(format!("the system does not give {len} bytes for a picture"));
        state.input.try_reserve_exact(len).map_err(refused)?;
        state.input.resize(len, 0);
        Ok(state.input.as_ptr().addr())
    })
}

/// Prepares the picture whose samples are the input, \[height, width, 4\]: red, green, blue, and alpha, which is dropped.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_picture_rgba(height: usize, width: usize) -> u32 {
    status(|state| {
        let samples = std::mem::take(&mut state.input);
        state.model()?.take_rgba([height, width], samples)
    })
}

/// Prepares the picture whose file is the input: PNG, JPEG, WebP, GIF, BMP or TIFF.
#[cfg(feature = "decode")]
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_picture_file() -> u32 {
    status(|state| {
        let file = std::mem::take(&mut state.input);
        state.model()?.take_file(&file)
    })
}

/// Prepares nothing: the input is the model's, f32 \[channels, height, width\], normalised.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_pixels() -> u32 {
    status(|state| {
        let bytes = std::mem::take(&mut state.input);
        state.model()?.take_pixels(&bytes)
    })
}

/// Runs the model on the picture. The input is the name of the output, which becomes the result.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_run() -> u32 {
    status(|state| {
        let name = String::from_utf8(std::mem::take(&mut state.input))?;
        let output = name.parse().map_err(|error| Failed(format!("'{name}': {error}")))?;
        state.result = state.model()?.run(output)?;
        Ok(())
    })
}

/// Takes the result for logits: it becomes pairs of a class and its probability, the most probable first.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_probabilities() -> u32 {
    status(|state| {
        let logits = vit_engine::logits::Logits::new(&state.result)?;
        state.result = logits.probabilities().flat_map(|(class, share)| [class as f32, share]).collect();
        Ok(())
    })
}

/// The attention of a layer and a head, counted from 1, 0 being the last layer and the mean of the heads: what each patch
/// gets, \[rows, columns\], from the patch at a position in the picture, or from what the model pools if `y` is NaN.
/// Returns whose attention it is: 1 the class token's, 2 the attention pool's, 3 all patches', 4 a patch's.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_attention(layer: usize, head: usize, y: f64, x: f64) -> u32 {
    call(|state| {
        let (map, from) = state.model()?.attention(layer, head, (!y.is_nan()).then_some([y, x]))?;
        state.result = map;
        Ok(from)
    })
}

/// Colours of the patches' features: red, green and blue from 0 to 1, \[rows, columns, 3\]; NaN for the background.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_colours() -> u32 {
    status(|state| {
        state.result = state.model()?.colours()?;
        Ok(())
    })
}

/// Paints the picture (0), the last attention (1) or the last colours (2) over it, with the longest side as given, 0 for
/// its own; `alpha` is the colours' share. The result is its height and width; [`vit_painted`] has its samples.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_paint(what: u32, longest: usize, smooth: u32, alpha: f64) -> u32 {
    status(|state| {
        state.painted = Vec::new();
        let (size, samples) = state.model()?.paint(what, longest, smooth != 0, alpha)?;
        state.result = size.map(|side| side as f32).to_vec();
        state.painted = samples;
        Ok(())
    })
}

/// Where the result is.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_result() -> usize {
    STATE.with_borrow(|state| state.result.as_ptr().addr())
}

/// How many f32 it has.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_result_len() -> usize {
    STATE.with_borrow(|state| state.result.len())
}

/// Where the painted samples are, \[height, width, 4\].
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_painted() -> usize {
    STATE.with_borrow(|state| state.painted.as_ptr().addr())
}

/// Where the text is: of the last error, or what the last header says.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_text() -> usize {
    STATE.with_borrow(|state| state.text.as_ptr().addr())
}

/// How many bytes of UTF-8 it has.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_text_len() -> usize {
    STATE.with_borrow(|state| state.text.len())
}
