//! From the tokens of the last layer to the output: final norm, pooling, projection, head.
use vit_kernels::{Epilogue, KvLayout, Scores, elementwise};

use crate::buffers::{HeadBuffers, PoolBuffers};
use crate::config::{AttentionPool, Pool, Readout};
use crate::executor::Stage;
use crate::forward::Pass;
use crate::model::PoolWeights;
use crate::output::Output;
use crate::parameters::Site;
use crate::plan::MAPS;

impl Pass<'_> {
    /// Writes the output. `residual` is \[images, rows, dim\]: all tokens, or the first ones if the output needs no
    /// others.
    #[inline(never)] // So that its buffers are not on the stack of the other phases.
    pub(crate) fn head(&self, residual: &[f32], arena: &mut [u8], out: &mut [f32]) {
        let (c, model) = (&self.model.config, self.model);
        let (buffers, arena) = HeadBuffers::carve(c, self.plan.images(), arena);
        let patches = c.prefix() * c.dim;
        match self.plan.output() {
            Output::Class => self.final_norms(residual, 0..c.dim, out),
            Output::Registers => self.final_norms(residual, patches - c.registers * c.dim..patches, out),
            Output::Patches => self.final_norms(residual, patches..c.tokens() * c.dim, out),
            Output::Layer(_) => out.copy_from_slice(residual),
            Output::Layers => self.copy_tokens(c.depth, residual, out),
            // The layers have written their maps already.
            Output::Attention | Output::AttentionOfLayer(_) => {}
            // The condition keeps their code out of builds without maps.
            Output::PoolAttention if MAPS => self.pool_maps(residual, arena, out),
            Output::PoolAttention => {}
            Output::Embedding => {
                let Some(readout) = c.embedding else { return };
                let embedding = self.read(readout, residual, buffers, arena);
                match model.linear(Site::Projection) {
                    Some(projection) => {
                        self.linear(Stage::Head, embedding, projection, Epilogue::default(), &mut [], out);
                    }
                    None => out.copy_from_slice(embedding),
                }
            }
            Output::Logits => match model.linear(Site::DistillationHead) {
                Some(second) => {
                    // Each of the two tokens has its own head. The logits are the mean of both.
                    let HeadBuffers { pooled, normed, .. } = buffers;
                    let images = self.images * c.dim;
                    self.final_norms(residual, 0..c.dim, &mut pooled[..images]);
                    self.final_norms(residual, c.dim..2 * c.dim, &mut normed[..images]);
                    if let Some(head) = model.linear(Site::Head) {
                        self.linear(Stage::Head, &pooled[..images], head, Epilogue::default(), &mut [], out);
                        self.linear(Stage::Head, &normed[..images], second, Epilogue::RESIDUAL, &mut [], out);
                        elementwise::scale(model.isa, out, 0.5);
                    }
                }
                None => {
                    let pooled = self.read(c.logits, residual, buffers, arena);
                    if let Some(head) = model.linear(Site::Head) {
                        self.linear(Stage::Head, pooled, head, Epilogue::default(), &mut [], out);
                    }
                }
            },
        }
    }

    /// The final norm of some tokens of each image: `elements` is their range within an image, `out` is \[images,
    /// elements\].
    fn final_norms(&self, residual: &[f32], elements: core::ops::Range<usize>, out: &mut [f32]) {
        let images = residual.chunks_exact(residual.len() / self.images);
        for (tokens, out) in images.zip(out.chunks_exact_mut(elements.len())) {
            self.final_norm(&tokens[elements.clone()], out);
        }
    }

    /// Pools one vector for each image, \[images, width of the pool\]. The attention pool takes its buffers from
    /// `arena`.
    fn read<'b>(&self, readout: Readout, residual: &[f32], buffers: HeadBuffers<'b>, arena: &mut [u8]) -> &'b [f32] {
        let len = self.images * readout.pool.width(self.model.config.dim);
        let HeadBuffers { pooled, normed, row } = buffers;
        let (pooled, normed) = (&mut pooled[..len], &mut normed[..len]);
        if readout.pool == Pool::Attention {
            self.attention_pool(residual, arena, normed, pooled);
        } else {
            let images = residual.chunks_exact(residual.len() / self.images);
            for (tokens, pooled) in images.zip(pooled.chunks_exact_mut(len / self.images)) {
                self.pool(readout.pool, tokens, row, pooled);
            }
        }
        match self.model.norm(Site::HeadNorm) {
            Some(norm) if readout.norm => {
                self.norm(pooled, norm, normed);
                normed
            }
            _ => pooled,
        }
    }

    /// Pools the tokens of one image. `row` is scratch, \[2·dim\].
    fn pool(&self, pool: Pool, tokens: &[f32], row: &mut [f32], pooled: &mut [f32]) {
        let (c, isa) = (&self.model.config, self.model.isa);
        let (row, second) = row.split_at_mut(c.dim);
        let mut mean = |tokens: &[f32], pooled: &mut [f32]| {
            pooled.fill(0.0);
            for token in tokens.chunks_exact(c.dim) {
                self.final_norm(token, row);
                elementwise::add(isa, pooled, row).expect("both are [dim]");
            }
            elementwise::scale(isa, pooled, 1.0 / (tokens.len() / c.dim) as f32);
        };
        let patches = tokens.get(c.prefix() * c.dim..).unwrap_or_default();
        match pool {
            Pool::Class => self.final_norm(&tokens[..c.dim], pooled),
            Pool::ClassAndDistillation => mean(&tokens[..2 * c.dim], pooled),
            Pool::MeanTokens => mean(tokens, pooled),
            Pool::MeanPatches => mean(patches, pooled),
            Pool::ClassThenMeanPatches => {
                let (class, patch) = pooled.split_at_mut(c.dim);
                mean(patches, patch);
                self.final_norm(&tokens[..c.dim], class);
            }
            Pool::MaxPatches => self.largest(patches, row, pooled),
            Pool::MeanMaxPatches => {
                mean(patches, pooled);
                self.largest(patches, row, second);
                elementwise::add(isa, pooled, second).expect("both are [dim]");
                elementwise::scale(isa, pooled, 0.5);
            }
            Pool::Attention => {}
        }
    }

    /// The maximum over tokens, channel by channel.
    fn largest(&self, tokens: &[f32], row: &mut [f32], out: &mut [f32]) {
        let dim = out.len();
        out.fill(f32::NEG_INFINITY);
        for token in tokens.chunks_exact(dim) {
            self.final_norm(token, row);
            // A NaN wins over every number.
            out.iter_mut().zip(&*row).for_each(|(out, x)| *out = if *x > *out || x.is_nan() { *x } else { *out });
        }
    }

    /// The attention pool, \[images, dim\]; `normed` is scratch of the same length.
    fn attention_pool(&self, residual: &[f32], arena: &mut [u8], normed: &mut [f32], pooled: &mut [f32]) {
        let (c, model) = (&self.model.config, self.model);
        let (Some(weights), Some(pool)) = (model.pool(), c.attention_pool) else { return };
        let plain = Epilogue::default();
        let (images, rows) = (self.plan.images(), self.plan.rows());
        let (PoolBuffers { kv, norm, query, context, hidden }, _) = PoolBuffers::carve(c, &pool, images, rows, arena);
        self.linear(Stage::Head, weights.probe, weights.q, plain, &mut [], query);
        for (tokens, context) in self.pooled_tokens(&pool, residual).zip(context.chunks_exact_mut(c.dim)) {
            let mut job = self.pool_scores((&weights, &pool), tokens, norm, query, kv).attend(context);
            self.team.run(Stage::Head, job.as_mut().expect("the context is as long as the query"));
        }
        let (context, hidden) = (&context[..pooled.len()], &mut hidden[..self.images * pool.mlp_dim]);
        self.linear(Stage::Head, context, weights.out, plain, &mut [], pooled);
        self.norm(pooled, weights.norm, normed);
        let activation = Epilogue { activation: Some(c.activation), ..plain };
        self.linear(Stage::Head, &*normed, weights.up, activation, &mut [], hidden);
        self.linear(Stage::Head, hidden, weights.down, Epilogue::RESIDUAL, normed, pooled);
    }

    /// The probabilities with which the attention pool's query attends, \[images, heads, tokens\].
    fn pool_maps(&self, residual: &[f32], arena: &mut [u8], out: &mut [f32]) {
        let (c, model) = (&self.model.config, self.model);
        let (Some(weights), Some(pool)) = (model.pool(), c.attention_pool) else { return };
        let (images, rows) = (self.plan.images(), self.plan.rows());
        let (PoolBuffers { kv, norm, query, .. }, _) = PoolBuffers::carve(c, &pool, images, rows, arena);
        self.linear(Stage::Head, weights.probe, weights.q, Epilogue::default(), &mut [], query);
        let len = pool.heads * pool.tokens(c).len();
        for (tokens, out) in self.pooled_tokens(&pool, residual).zip(out.chunks_exact_mut(len)) {
            let mut job = self.pool_scores((&weights, &pool), tokens, norm, query, kv).maps(0, 1, out);
            self.team.run(Stage::Head, job.as_mut().expect("out has room for a row of every head"));
        }
    }

    /// The tokens of each image that the attention pool attends to, \[tokens, dim\].
    fn pooled_tokens<'t>(&self, pool: &AttentionPool, residual: &'t [f32]) -> impl Iterator<Item = &'t [f32]> {
        let c = &self.model.config;
        let first = pool.tokens(c).start * c.dim;
        residual.chunks_exact(c.tokens() * c.dim).map(move |tokens| &tokens[first..])
    }

    /// The scores of the attention pool's query with the tokens of one image, whose keys and values go into `kv`.
    /// `norm` is scratch, \[rows of a block, dim\].
    fn pool_scores<'s>(
        &self,
        (weights, pool): (&PoolWeights<'_>, &AttentionPool),
        tokens: &[f32],
        norm: &mut [f32],
        query: &'s [f32],
        kv: &'s mut [f32],
    ) -> Scores<'s> {
        for (block, kv) in tokens.chunks(norm.len()).zip(kv.chunks_mut(2 * norm.len())) {
            let norm = &mut norm[..block.len()];
            self.final_norm(block, norm);
            self.linear(Stage::Head, &*norm, weights.kv, Epilogue::default(), &mut [], kv);
        }
        let dim = self.model.config.dim;
        let head_dim = dim / pool.heads;
        let layout = KvLayout { heads: pool.heads, head_dim, tokens: tokens.len() / dim };
        let scale = 1.0 / libm::sqrtf(head_dim as f32);
        let scores = Scores::new(self.model.isa, layout, scale, query, &*kv);
        scores.expect("the plan reserved the pool's keys and values")
    }

    fn final_norm(&self, x: &[f32], out: &mut [f32]) {
        match self.model.norm(Site::FinalNorm) {
            Some(norm) => self.norm(x, norm, out),
            None => out.copy_from_slice(x),
        }
    }
}
