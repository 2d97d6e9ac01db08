//! The forward pass, in the order of the model: embed → (attention, feed-forward) × depth → head.
//!
//! Attention reads the keys and values of all tokens; every other step reads one row at a time. So each layer makes two
//! passes over blocks of rows: first the keys and values of all rows, then everything else.
use core::fmt;

use vit_kernels::half::bf16;
use vit_kernels::{
    Activation, Activations, Epilogue, Inputs, LayerNorm, Matmul, NormActivations, Packed, Quantise, Quantised,
    RoundToBf16, bf16_len, quantised_len,
};

use crate::arena::{MemoryError, aligned_mut};
use crate::buffers::{LayerBuffers, PassBuffers, RowBuffers};
use crate::executor::{Executor, Stage, Team};
use crate::model::Model;
use crate::output::Output;
use crate::pixels::Pixels;
use crate::plan::{MAPS, Plan};
use crate::weights::{Linear, Norm};

impl Model<'_> {
    /// Runs the model on a batch of images and writes the plan's [`Output`](crate::Output) to `out`. Allocates nothing.
    ///
    /// `arena` has at least [`Plan::arena_bytes`] bytes and is aligned to [`ALIGN`](crate::ALIGN); its contents do not
    /// matter. `out` has [`Plan::output_len`] elements, \[batch, …\] in the shape that [`Output`](crate::Output)
    /// states. The bits of the output depend on the model, its precision and its instruction-set level (all levels with
    /// fused multiply–add agree). They do not depend on the plan's block sizes, the batch or the executor.
    ///
    /// # Errors
    /// If the plan is for another model, if `arena` or `out` has the wrong size, if `pixels` fails, or if the executor
    /// [stops](crate::Stoppable) the pass. After an error `out` may be partly written.
    pub fn forward<P: Pixels<Error: Send> + Send>(
        &self,
        plan: &Plan,
        pixels: &mut P,
        arena: &mut [u8],
        executor: &dyn Executor,
        out: &mut [f32],
    ) -> Result<(), ForwardError<P::Error>> {
        if *plan.config() != self.config || plan.precision() != self.precision() {
            return Err(ForwardError::OtherPlan);
        }
        if out.len() != plan.output_len() {
            return Err(ForwardError::OutputLen { expected: plan.output_len(), found: out.len() });
        }
        let [height, width] = self.config.image;
        pixels.check(plan.batch(), [self.config.channels, height, width]).map_err(ForwardError::Pixels)?;
        let arena = aligned_mut(arena, plan.arena_bytes()).map_err(ForwardError::Arena)?;
        let mut failure = None;
        let mut strips = |image: usize, top: usize, strip: &mut [f32]| {
            pixels.read(image, top, strip).map_err(|error| failure = Some(error)).map_err(|()| Stopped)
        };
        let result = self.pass(plan, &mut strips, arena, executor, out);
        match (result, failure) {
            (_, Some(error)) => Err(ForwardError::Pixels(error)),
            (Some(Ok(())), None) => Ok(()),
            (Some(Err(Stopped)), None) => Err(ForwardError::Stopped),
            (None, None) => Err(ForwardError::NotRun),
        }
    }

    /// [`forward`](Self::forward) without its checks. It is compiled once for all kinds of [`Pixels`]. `None` if the
    /// executor did not run the pass.
    fn pass(
        &self,
        plan: &Plan,
        strips: &mut Strips<'_>,
        arena: &mut [u8],
        executor: &dyn Executor,
        out: &mut [f32],
    ) -> Option<Result<(), Stopped>> {
        let mut result = None;
        executor.enter(&mut |team| {
            let per_group = plan.images() * (plan.output_len() / plan.batch());
            let mut groups = out.chunks_mut(per_group).enumerate();
            result = Some(groups.try_for_each(|(group, out)| {
                let first = group * plan.images();
                let images = plan.images().min(plan.batch() - first);
                Pass { model: self, plan, team, images }.run(first, strips, arena, out)
            }));
        });
        result
    }
}

/// Whether this build has bf16: no model of it can be opened without, and its code is not linked.
pub(crate) const BF16: bool = cfg!(feature = "bf16");

/// [`Pixels::read`]; its error is kept by the one who calls the pass.
pub(crate) type Strips<'a> = dyn FnMut(usize, usize, &mut [f32]) -> Result<(), Stopped> + Send + 'a;

/// The pass cannot go on: the source of the pixels failed, or the team was told to stop.
pub(crate) struct Stopped;

/// A forward pass over one group of images.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) team: &'a dyn Team,
    pub(crate) images: usize,
}

impl Pass<'_> {
    fn run(&self, first: usize, strips: &mut Strips<'_>, arena: &mut [u8], out: &mut [f32]) -> Result<(), Stopped> {
        let (c, plan, output) = (&self.model.config, self.plan, self.plan.output());
        let (PassBuffers { mut residual }, arena) = PassBuffers::carve(c, plan.images(), arena);
        residual = &mut residual[..self.images * c.tokens() * c.dim]; // [images·tokens, dim]

        self.embed(first, strips, arena, residual)?;
        self.go_on()?;

        let (mut buffers, _) = LayerBuffers::carve(c, plan.precision(), plan.images(), plan.rows(), arena);
        let layers = output.layers(c);
        for index in 0..layers {
            if output == Output::Layers {
                self.copy_tokens(index, residual, out);
            }
            self.keys_and_values(index, residual, &mut buffers);
            let maps = if MAPS { output.place_of_maps(index, c) } else { None };
            if let Some(place) = maps {
                self.attention_maps(index, place, residual, &mut buffers, out);
            }
            if index + 1 == layers {
                match output.rows_of_last_layer(c) {
                    _ if maps.is_some() => return self.go_on(),
                    rows if rows < c.tokens() => residual = self.keep_first_rows(residual, rows),
                    _ => {}
                }
            }
            self.attention(index, residual, &mut buffers);
            self.feed_forward(index, residual, &mut buffers);
            self.go_on()?;
        }

        self.head(residual, arena, out);
        self.go_on()
    }

    /// An error if the team has left out a job.
    fn go_on(&self) -> Result<(), Stopped> {
        if self.team.stopped() { Err(Stopped) } else { Ok(()) }
    }

    /// Copies the tokens after `index` layers to their place in `out`, \[images, depth + 1, tokens, dim\].
    pub(crate) fn copy_tokens(&self, index: usize, residual: &[f32], out: &mut [f32]) {
        let len = self.model.config.tokens() * self.model.config.dim;
        for (tokens, out) in residual.chunks_exact(len).zip(out.chunks_exact_mut((self.model.config.depth + 1) * len)) {
            out[index * len..][..len].copy_from_slice(tokens);
        }
    }

    /// Moves each image's first tokens to the front: \[images, tokens, dim\] → \[images, rows, dim\].
    fn keep_first_rows<'r>(&self, residual: &'r mut [f32], rows: usize) -> &'r mut [f32] {
        let (dim, tokens) = (self.model.config.dim, self.model.config.tokens());
        // By rows, which move by a row at least: `copy_within` would take 800 bytes of a microcontroller's flash.
        let images = if rows < tokens { 1..self.images } else { 0..0 };
        for (image, row) in images.flat_map(|image| (0..rows).map(move |row| (image, row))) {
            let (before, from) = residual.split_at_mut((image * tokens + row) * dim);
            before[(image * rows + row) * dim..][..dim].copy_from_slice(&from[..dim]);
        }
        &mut residual[..self.images * rows * dim]
    }

    /// out = LayerNorm(x), row by row.
    #[inline(never)] // So that its job is not on the stack of what follows.
    pub(crate) fn norm(&self, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
        let Model { isa, config, .. } = *self.model;
        let job = LayerNorm::new(isa, x, norm.gamma, norm.beta, config.norm_eps, out);
        self.team.run(Stage::Norm, &mut job.expect("x and out are whole rows of the norm's width"));
    }

    /// LayerNorm(x) in the format that `weight` is multiplied with: in f32 in `out`, or rounded or quantised in `rows`.
    pub(crate) fn norm_for<'e>(
        &self,
        x: &[f32],
        norm: Norm<'_>,
        weight: &Packed<'_>,
        out: &'e mut [f32],
        rows: &'e mut RowBuffers<'_>,
    ) -> Activations<'e> {
        if !NormActivations::IS_WORTH_IT {
            self.norm(x, norm, out);
            return self.activations(out, weight, rows);
        }
        let Model { isa, config, .. } = *self.model;
        let (k, eps, parameters) = (weight.k(), config.norm_eps, [norm.gamma, norm.beta]);
        let (count, room) = (x.len() / k, "the buffers have room for the rows of a block");
        let mut job = match weight.format().inputs() {
            Inputs::Bf16 if BF16 => {
                NormActivations::to_bf16(isa, x, parameters, eps, &mut rows.rounded[..count * bf16_len(k)])
            }
            Inputs::Int8 => {
                let values = &mut rows.quantised[..count * quantised_len(k)];
                NormActivations::to_int8(isa, x, parameters, eps, values, &mut rows.row_scales[..count])
            }
            _ => {
                self.norm(x, norm, out);
                return (&*out).into();
            }
        };
        self.team.run(Stage::Norm, job.as_mut().expect(room));
        drop(job);
        self.same_activations(out, weight, rows)
    }

    /// The rows of `x` in the format that `weight` is multiplied with: f32 as they are, or rounded or quantised into
    /// `rows`.
    pub(crate) fn activations<'e>(
        &self,
        x: &'e [f32],
        weight: &Packed<'_>,
        rows: &'e mut RowBuffers<'_>,
    ) -> Activations<'e> {
        let (isa, k) = (self.model.isa, weight.k());
        let (count, room) = (x.len() / k, "the buffers have room for the rows of a block");
        match weight.format().inputs() {
            Inputs::Bf16 if BF16 => {
                let job = RoundToBf16::new(isa, x, k, &mut rows.rounded[..count * bf16_len(k)]);
                self.team.run(Stage::Quantise, &mut job.expect(room));
            }
            Inputs::Int8 => {
                let values = &mut rows.quantised[..count * quantised_len(k)];
                let job = Quantise::new(isa, x, k, values, &mut rows.row_scales[..count]);
                self.team.run(Stage::Quantise, &mut job.expect(room));
            }
            _ => {}
        }
        self.same_activations(x, weight, rows)
    }

    /// [`activations`](Self::activations) of rows that `rows` already holds.
    pub(crate) fn same_activations<'e>(
        &self,
        x: &'e [f32],
        weight: &Packed<'_>,
        rows: &'e RowBuffers<'_>,
    ) -> Activations<'e> {
        let (k, count) = (weight.k(), x.len() / weight.k());
        match weight.format().inputs() {
            Inputs::Bf16 if BF16 => rows.rounded[..count * bf16_len(k)].into(),
            Inputs::Int8 => {
                let (values, scales) = (&rows.quantised[..count * quantised_len(k)], &rows.row_scales[..count]);
                let quantised = Quantised::new(self.model.isa, k, values, scales);
                quantised.expect("the buffers have room for the rows of a block").into()
            }
            _ => x.into(),
        }
    }

    /// out = epilogue(x·Wᵀ + bias). `partial` is scratch as long as `out`, or empty; see [`Matmul::blocks`].
    pub(crate) fn linear<'e>(
        &self,
        stage: Stage,
        x: impl Into<Activations<'e>>,
        linear: Linear<'e>,
        epilogue: Epilogue<'e>,
        partial: &'e mut [f32],
        out: &'e mut [f32],
    ) {
        let epilogue = Epilogue { bias: linear.bias, ..epilogue };
        let shapes = "x, out and partial are whole rows of the layer's widths";
        // By reference: a move would take as much stack again.
        let mut job = Matmul::new(self.model.isa, x, linear.weight, epilogue, out);
        let mut blocks = job.as_mut().expect(shapes).blocks(partial).expect(shapes);
        while let Some(job) = blocks.next() {
            self.team.run(stage, job);
        }
    }

    /// out = activation(x·Wᵀ + bias), rounded to bf16; the weights must be in bf16.
    pub(crate) fn linear_to_bf16<'e>(
        &self,
        stage: Stage,
        x: Activations<'e>,
        linear: Linear<'e>,
        activation: Activation,
        out: &'e mut [bf16],
    ) {
        let epilogue = Epilogue { bias: linear.bias, activation: Some(activation), ..Epilogue::default() };
        let job = Matmul::to_bf16(self.model.isa, x, linear.weight, epilogue, out);
        self.team.run(stage, &mut job.expect("x and out are whole rows of the layer's widths"));
    }
}

/// Why a forward pass failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardError<E> {
    /// The plan is for another config or precision.
    OtherPlan,
    /// The arena is too small or misaligned.
    Arena(MemoryError),
    /// `out` does not have the length that the plan states.
    OutputLen {
        /// [`Plan::output_len`].
        expected: usize,
        /// The length of `out`.
        found: usize,
    },
    /// The source of the pixels failed.
    Pixels(E),
    /// The executor was told to [stop](crate::Stoppable).
    Stopped,
    /// The executor returned without running the pass.
    NotRun,
}

impl<E: fmt::Display> fmt::Display for ForwardError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPlan => write!(f, "the plan is for another model"),
            Self::Arena(error) => write!(f, "the arena: {error}"),
            Self::OutputLen { expected, found } => {
                write!(f, "the output slice has {found} elements, expected {expected}")
            }
            Self::Pixels(error) => error.fmt(f),
            Self::Stopped => write!(f, "the forward pass was stopped"),
            Self::NotRun => write!(f, "the executor did not run the forward pass"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for ForwardError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Arena(error) => Some(error),
            Self::Pixels(error) => Some(error),
            _ => None,
        }
    }
}
