//! The forward pass, in the model's own order: embed → (attention, feed-forward) × depth → head.
//!
//! Attention needs every token's keys and values; nothing else needs more than its own row. So each layer goes over
//! blocks of rows twice: keys and values of all rows first, then the rest.
use core::fmt;

use vit_kernels::{Activations, Epilogue, LayerNorm, Matmul, Packed, Quantise, Quantised, quantised_len};

use crate::arena::{MemoryError, aligned_mut};
use crate::buffers::{EmbedBuffers, LayerBuffers, PassBuffers};
use crate::executor::{Executor, Stage, Team};
use crate::features::Features;
use crate::model::Model;
use crate::pixels::Pixels;
use crate::plan::Plan;
use crate::weights::{Linear, Norm};

impl Model<'_> {
    /// Runs the model over a batch: pixels in, the plan's features out. Allocates nothing.
    ///
    /// `arena` is at least [`Plan::arena_bytes`] long and aligned to [`ALIGN`](crate::ALIGN); what it holds before does
    /// not matter. `out` is [`Plan::output_len`] long, \[batch, …\] as [`Features`](crate::Features) says. The bits of
    /// the output depend on the model, its precision and its level (all levels with fused multiply–add agree), not on
    /// the plan's blocks, the batch or the executor.
    ///
    /// # Errors
    /// When plan, arena or `out` do not fit, and whatever error `pixels` gives; `out` is then partly written.
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
            return Err(ForwardError::Output { expected: plan.output_len(), found: out.len() });
        }
        let [height, width] = self.config.image;
        pixels.check(plan.batch(), [self.config.channels, height, width]).map_err(ForwardError::Pixels)?;
        let arena = aligned_mut(arena, plan.arena_bytes()).map_err(ForwardError::Arena)?;
        let mut result = Err(ForwardError::NotRun);
        executor.enter(&mut |team| {
            let per_group = plan.images() * (plan.output_len() / plan.batch());
            let mut groups = out.chunks_mut(per_group).enumerate();
            result = groups.try_for_each(|(group, out)| {
                let first = group * plan.images();
                let images = plan.images().min(plan.batch() - first);
                Pass { model: self, plan, team, images }.run(first, pixels, arena, out)
            });
        });
        result
    }
}

/// A forward pass over the images that are in flight together.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) team: &'a dyn Team,
    pub(crate) images: usize,
}

impl Pass<'_> {
    fn run<P: Pixels>(
        &self,
        first: usize,
        pixels: &mut P,
        arena: &mut [u8],
        out: &mut [f32],
    ) -> Result<(), ForwardError<P::Error>> {
        let (c, plan, features) = (&self.model.config, self.plan, self.plan.features());
        let (PassBuffers { mut residual }, arena) = PassBuffers::carve(c, plan.images(), arena);
        residual = &mut residual[..self.images * c.tokens() * c.dim]; // [images·tokens, dim]

        let (buffers, _) = EmbedBuffers::carve(c, plan.rows(), arena);
        self.embed(first, pixels, buffers, residual).map_err(ForwardError::Pixels)?;

        let (mut buffers, _) = LayerBuffers::carve(c, plan.precision(), plan.images(), plan.rows(), arena);
        let layers = features.layers(c);
        for index in 0..layers {
            let layer = self.model.layer(index);
            self.keys_and_values(&layer, residual, &mut buffers);
            if features == Features::Attention {
                self.attention_maps(&layer, index, residual, &mut buffers, out);
            }
            if index + 1 == layers {
                match features.rows_of_last_layer(c) {
                    _ if features == Features::Attention => return Ok(()),
                    rows if rows < c.tokens() => residual = self.keep_first_rows(residual, rows),
                    _ => {}
                }
            }
            self.attention(&layer, residual, &mut buffers);
            self.feed_forward(&layer, residual, &mut buffers);
        }

        self.head(residual, arena, out);
        Ok(())
    }

    /// Moves each image's first tokens to the front: \[images, tokens, dim\] → \[images, rows, dim\].
    fn keep_first_rows<'r>(&self, residual: &'r mut [f32], rows: usize) -> &'r mut [f32] {
        let (dim, tokens) = (self.model.config.dim, self.model.config.tokens());
        for image in 1..self.images {
            let start = image * tokens * dim;
            residual.copy_within(start..start + rows * dim, image * rows * dim);
        }
        &mut residual[..self.images * rows * dim]
    }

    /// out = LayerNorm(x), row by row.
    pub(crate) fn norm(&self, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
        let Model { isa, config, .. } = *self.model;
        let job = LayerNorm::new(isa, x, norm.gamma, norm.beta, config.norm_eps, out);
        self.team.run(Stage::Norm, &mut job.expect("x and out are whole rows of the norm's width"));
    }

    /// Rows as weights of that format take them: f32, or quantised into `values` and `scales`.
    pub(crate) fn activations<'e>(
        &self,
        x: &'e [f32],
        weight: &Packed<'_>,
        values: &'e mut [i8],
        scales: &'e mut [f32],
    ) -> Activations<'e> {
        if !weight.format().quantises_activations() {
            return x.into();
        }
        let (isa, k) = (self.model.isa, weight.k());
        let rows = x.len() / k;
        let (values, scales) = (&mut values[..rows * quantised_len(k)], &mut scales[..rows]);
        let job = Quantise::new(isa, x, k, values, scales);
        self.team.run(Stage::Quantise, &mut job.expect("the plan reserved as many rows as a block has"));
        Quantised::new(isa, k, values, scales).expect("they were written just now").into()
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
        let blocks = Matmul::new(self.model.isa, x, linear.weight, epilogue, out).and_then(|job| job.blocks(partial));
        let mut blocks = blocks.expect("x, out and partial are whole rows of the layer's widths");
        while let Some(job) = blocks.next() {
            self.team.run(stage, job);
        }
    }
}

/// Why a forward pass did not deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardError<E> {
    /// The plan was made for another config or precision.
    OtherPlan,
    /// The arena does not do.
    Arena(MemoryError),
    /// The output has another length than the plan's.
    Output {
        /// [`Plan::output_len`].
        expected: usize,
        /// The length passed.
        found: usize,
    },
    /// The source of pixels failed.
    Pixels(E),
    /// The executor did not call the pass.
    NotRun,
}

impl<E: fmt::Display> fmt::Display for ForwardError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPlan => write!(f, "the plan was made for another model"),
            Self::Arena(error) => write!(f, "the arena: {error}"),
            Self::Output { expected, found } => {
                write!(f, "the output has {found} elements, and the plan delivers {expected}")
            }
            Self::Pixels(error) => error.fmt(f),
            Self::NotRun => write!(f, "the executor did not run the forward pass"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for ForwardError<E> {}
