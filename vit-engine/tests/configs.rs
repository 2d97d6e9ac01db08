//! Whatever the hyper-parameters: those that `validate` accepts run, and no size makes anything panic.
mod support;

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use support::{levels, run_plan};
use vit_engine::{
    Activation, AlignedBox, AttentionPool, Biases, Config, FillError, Formats, Isa, KeepF32, LayerMatrix, LayerSite,
    Model, ModelError, Output, Param, Part, PatchOrder, Plan, PlanError, Pool, PoolSite, Positions, Precision, Readout,
    Serial, Site, Source, Stage, Values, for_each_param,
};

const POOLS: [Pool; 8] = [
    Pool::Class,
    Pool::MeanTokens,
    Pool::MeanPatches,
    Pool::MaxPatches,
    Pool::MeanMaxPatches,
    Pool::ClassThenMeanPatches,
    Pool::ClassAndDistillation,
    Pool::Attention,
];

const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];

/// Every kind of output, also those that no model has.
const KINDS: [Output; 15] = [
    Output::Logits,
    Output::Class,
    Output::Patches,
    Output::Registers,
    Output::Embedding,
    Output::Attention,
    Output::AttentionOfLayer(0),
    Output::AttentionOfLayer(1),
    Output::AttentionOfLayer(2),
    Output::PoolAttention,
    Output::Layer(0),
    Output::Layer(1),
    Output::Layer(2),
    Output::Layer(usize::MAX),
    Output::Layers,
];

/// Choices, one after the other; they shrink towards the first of each.
struct Draw(std::vec::IntoIter<u32>);

impl Draw {
    fn below(&mut self, count: usize) -> usize {
        self.0.next().expect("enough choices are drawn") as usize % count
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn rare(&mut self) -> bool {
        self.below(8) == 7
    }

    fn readout(&mut self) -> Readout {
        Readout { pool: self.of(&POOLS), norm: self.flag() }
    }

    /// A config whose sizes are drawn from `sizes`, those that may be 0 from `counts`.
    fn config(&mut self, sizes: &[usize], counts: &[usize]) -> Config {
        let bias = |d: &mut Self| Biases {
            patch: d.flag(),
            query: d.flag(),
            key: d.flag(),
            value: d.flag(),
            out: d.flag(),
            mlp: d.flag(),
            projection: d.flag(),
            head: d.flag(),
        };
        Config {
            channels: self.of(sizes),
            image: [self.of(sizes), self.of(sizes)],
            patch: [self.of(sizes), self.of(sizes)],
            patch_order: self.of(&[PatchOrder::ChannelRowColumn, PatchOrder::RowColumnChannel]),
            patch_norm: self.flag(),
            embed_norm: self.flag(),
            class_token: !self.rare(),
            distillation_token: self.flag(),
            registers: self.of(counts),
            positions: self.of(&[Positions::All, Positions::Absent, Positions::Patches, Positions::NotRegisters]),
            pre_norm: self.flag(),
            dim: self.of(sizes),
            depth: self.of(counts),
            heads: self.of(sizes),
            head_dim: self.of(sizes),
            attention_scale: self.of(&[0.3, -0.2, 0.0]),
            qk_norm: self.flag(),
            rope: self.flag(),
            relative_bias: self.flag(),
            context_norm: self.flag(),
            out_proj: !self.rare(),
            layer_scale: self.flag(),
            mlp_dim: self.of(sizes),
            gated: self.flag(),
            hidden_norm: self.flag(),
            activation: self.of(&ACTIVATIONS),
            bias: bias(self),
            norm_eps: self.of(&[1e-5, 1e-12]),
            final_norm: self.flag(),
            attention_pool: self.flag().then(|| AttentionPool {
                heads: self.of(sizes),
                mlp_dim: self.of(sizes),
                all_tokens: self.flag(),
            }),
            embedding: (!self.rare()).then(|| self.readout()),
            projection: self.of(counts),
            logits: self.readout(),
            distillation_head: self.rare(),
            classes: self.of(counts),
        }
    }

    /// A small config. Most contradictions that are refused anyway are avoided, so that most run.
    fn small(&mut self) -> Config {
        let mut c = self.config(&[1, 2, 3, 4, 5, 6], &[0, 1, 2]);
        (c.image, c.dim) = ([1, 2].map(|_| 1 + self.below(9)), self.of(&[1, 2, 4, 6, 12, 16, 17, 33]));
        c.classes = self.of(&[0, 1, 3, 17]);
        let (free, keep_relative, second_head) = (self.rare(), self.flag(), self.flag());
        if free {
            return c;
        }
        c.patch = [0, 1].map(|axis| c.patch[axis].min(c.image[axis]));
        c.distillation_token &= c.class_token;
        c.head_dim *= 1 + usize::from(c.rope);
        if c.relative_bias && keep_relative {
            (c.class_token, c.distillation_token, c.registers) = (true, false, 0);
        }
        c.relative_bias &= c.class_token && c.prefix() == 1;
        if !c.out_proj {
            (c.dim, c.layer_scale, c.context_norm) = (c.inner(), false, false);
        }
        if let Some(pool) = &mut c.attention_pool {
            pool.heads = (1..=pool.heads).rfind(|heads| c.dim.is_multiple_of(*heads)).unwrap();
        }
        let there = |readout: Readout| match readout.pool {
            Pool::Class | Pool::ClassThenMeanPatches => c.class_token,
            Pool::ClassAndDistillation => c.distillation_token,
            Pool::Attention => c.attention_pool.is_some(),
            _ => true,
        };
        let instead = |readout: Readout| Readout { pool: Pool::MeanPatches, ..readout };
        c.logits = if there(c.logits) { c.logits } else { instead(c.logits) };
        c.embedding = c.embedding.map(|readout| if there(readout) { readout } else { instead(readout) });
        c.distillation_head &= c.distillation_token;
        if c.distillation_token && second_head {
            (c.distillation_head, c.logits) = (true, Readout { pool: Pool::ClassAndDistillation, norm: false });
        }
        c
    }

    /// A config of small and huge sizes, few of each so that not all are refused.
    fn huge(&mut self) -> Config {
        let huge = [1 << 12, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, usize::MAX >> 4, usize::MAX];
        let sizes = [1, 2, 3, self.of(&huge[..3]), 4, if self.rare() { self.of(&huge) } else { 6 }];
        let mut c = self.config(&sizes, &[0, 1, 2, sizes[3]]);
        if self.flag() {
            (c.relative_bias, c.out_proj, c.rope, c.attention_pool) = (false, true, false, None);
            let mean = Readout { pool: Pool::MeanPatches, norm: false };
            (c.embedding, c.logits, c.distillation_head) = (Some(mean), mean, false);
            c.image = c.patch.map(|size| size.saturating_mul(3));
            c.distillation_token &= c.class_token;
        }
        c
    }
}

/// Parameters that follow from a seed, and which of them were asked for.
struct Seeded {
    seed: u32,
    opened: RefCell<Vec<(Param, [usize; 2])>>,
}

impl Source for Seeded {
    type Error = ();

    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, ()> {
        self.opened.borrow_mut().push((param, shape));
        let is_norm = matches!(
            param.site,
            Site::PatchNorm
                | Site::EmbedNorm
                | Site::PreNorm
                | Site::FinalNorm
                | Site::HeadNorm
                | Site::Pool(PoolSite::Norm)
                | Site::Layer(
                    _,
                    LayerSite::AttentionNorm
                        | LayerSite::MlpNorm
                        | LayerSite::QueryNorm
                        | LayerSite::KeyNorm
                        | LayerSite::ContextNorm
                        | LayerSite::HiddenNorm
                )
        );
        let centre = if is_norm && param.part == Part::Weight { 1.0 } else { 0.0 };
        let mut of_param = DefaultHasher::new();
        (self.seed, param).hash(&mut of_param);
        let of_param = of_param.finish();
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            assert!(row < shape[0] && start + into.len() <= shape[1], "{param:?} {shape:?}");
            for (column, x) in (start..).zip(into) {
                // splitmix64's finaliser.
                let mut z = of_param ^ ((row as u64) << 32 | column as u64);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                *x = centre + (z >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
            }
        })
    }
}

/// Memory that is filled for a config.
fn filled(c: &Config, formats: Formats, seed: u32) -> AlignedBox {
    let source = Seeded { seed, opened: RefCell::default() };
    let mut memory = AlignedBox::new(Model::bytes(c, formats).unwrap()).unwrap();
    Model::fill(c, formats, &source, &mut memory).unwrap();
    let mut expected = Vec::new();
    let all: Result<(), ()> = for_each_param(c, |param, shape| {
        expected.push((param, shape));
        Ok(())
    });
    all.unwrap();
    let mut opened = source.opened.into_inner();
    for list in [&mut opened, &mut expected] {
        list.sort_by_key(|(param, _)| format!("{param:?}"));
    }
    assert_eq!(opened, expected, "every parameter is opened once");
    memory
}

fn pixels(c: &Config, batch: usize) -> Vec<f32> {
    (0..batch * c.channels * c.image[0] * c.image[1]).map(|i| (i as f32 * 0.7).sin()).collect()
}

/// Runs every kind of output with several plans: all give the same finite bits.
fn run_all(model: &Model<'_>, batch: usize, d: &mut Draw) -> usize {
    let (c, mut count) = (model.config(), 0);
    let pixels = pixels(c, batch);
    for output in KINDS {
        let unbounded = match Plan::new(c, model.precision(), output, batch, None) {
            Ok(plan) => plan,
            Err(error) => {
                assert_eq!((error, output.len(c)), (PlanError::NoOutput(output), None));
                continue;
            }
        };
        let minimum = Plan::minimum_bytes(c, model.precision(), output, batch).unwrap();
        let between = minimum + d.below(unbounded.arena_bytes().saturating_sub(minimum) + 1);
        let want = run_plan(model, &unbounded, &pixels, &Serial);
        assert!(want.iter().all(|x| x.is_finite()), "{output:?}");
        let images = 1 + d.below(4);
        for plan in [
            Plan::new(c, model.precision(), output, batch, Some(minimum)),
            Plan::new(c, model.precision(), output, batch, Some(between)),
            Plan::with_blocks(c, model.precision(), output, batch, images, 1 + d.below(images * c.tokens() + 3)),
            Plan::with_blocks(c, model.precision(), output, batch, usize::MAX, usize::MAX),
        ] {
            let plan = plan.unwrap();
            let same = run_plan(model, &plan, &pixels, &Serial) == want;
            assert!(same, "{output:?}: {} images, {} rows", plan.images(), plan.rows());
        }
        count += 1;
    }
    count
}

/// A config, and choices for what is done with it.
#[derive(Clone)]
struct Case {
    config: Config,
    choices: Vec<u32>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

/// Runs a test on many configs.
fn for_each_config(cases: u32, config: fn(&mut Draw) -> Config, test: impl Fn(Config, &mut Draw)) {
    let cases = Cases { cases, failure_persistence: None, ..Cases::default() };
    let case = (vec(any::<u32>(), 80), vec(any::<u32>(), 80));
    let case = case
        .prop_map(|(config_choices, choices)| Case { config: config(&mut Draw(config_choices.into_iter())), choices });
    let result = TestRunner::new(cases).run(&case, |case| {
        test(case.config, &mut Draw(case.choices.into_iter()));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_is_accepted_runs() {
    let (accepted, passes) = (Cell::new(0), Cell::new(0));
    let levels = levels();
    for_each_config(3000, Draw::small, |c, d| {
        let (precision, isa, batch, seed) =
            (d.of(&Precision::ALL), d.of(&levels), 1 + d.below(3), d.below(1000) as u32);
        let bytes = Model::bytes(&c, precision);
        assert_eq!(bytes.err(), c.validate().err());
        if bytes.is_err() {
            return;
        }
        // Any matrices may be kept in f32; the plans, which are made for the precision, stay the same.
        let choice = if d.flag() { d.below(1 << 16) } else { 0 };
        let kept = LayerMatrix::all(&c).enumerate().filter(|(i, _)| choice >> (i % 16) & 1 == 1);
        let kept = kept.fold(KeepF32::NONE, |keep, (_, matrix)| keep.with(matrix).unwrap());
        let formats = Formats::new(precision, kept);
        let memory = filled(&c, formats, seed);
        let model = Model::new(&c, formats, isa, &memory).unwrap();
        passes.set(passes.get() + run_all(&model, batch, d));
        accepted.set(accepted.get() + 1);

        let other = c.with_image([0, 1].map(|axis| c.patch[axis] + d.below(9)));
        let mut tables = AlignedBox::new(Model::table_bytes(&other).unwrap()).unwrap();
        let source = Seeded { seed, opened: RefCell::default() };
        Model::fill_tables(&other, &source, &mut tables).unwrap();
        match model.at(other.image, &tables) {
            Ok(at) => {
                // It is the model that is filled for that size to begin with.
                let whole = filled(&other, formats, seed);
                let whole = Model::new(&other, formats, isa, &whole).unwrap();
                let plan = Plan::new(&other, precision, Output::Patches, batch, None).unwrap();
                let pixels = pixels(&other, batch);
                assert!(run_plan(&at, &plan, &pixels, &Serial) == run_plan(&whole, &plan, &pixels, &Serial));
            }
            Err(error) => {
                assert_eq!(error, ModelError::OtherGrid { own: c.grid(), found: other.grid() });
                assert!(c.relative_bias);
            }
        }
    });
    println!("{} configs accepted, {} outputs computed", accepted.get(), passes.get());
    assert!(accepted.get() > 2000 && passes.get() > 10_000, "{} {}", accepted.get(), passes.get());
}

/// Sizes up to the largest: an error, or numbers; never a panic, which an overflow is in the profile of tests.
#[test]
fn sizes_near_the_limits() {
    let accepted = Cell::new(0);
    for_each_config(10_000, Draw::huge, |c, d| {
        let fill =
            |bytes: &mut [u8]| Model::fill(&c, Precision::F32, &Seeded { seed: 0, opened: RefCell::default() }, bytes);
        if let Err(error) = c.validate() {
            assert_eq!(Model::bytes(&c, Precision::F16), Err(error));
            assert_eq!(Plan::new(&c, Precision::F32, Output::Patches, 1, None), Err(PlanError::Config(error)));
            assert_eq!(fill(&mut []), Err(FillError::Config(error)));
            return;
        }
        accepted.set(accepted.get() + 1);
        let visited = Cell::new(0);
        let _ = for_each_param(&c, |_, _| {
            visited.set(visited.get() + 1);
            if visited.get() < 100 { Ok(()) } else { Err(()) }
        });
        for precision in Precision::ALL {
            if let Ok(bytes) = Model::bytes(&c, precision) {
                // Tables are laid out with f32 weights beside them, which may be too large where f16 and bf16 are not.
                assert!(Model::table_bytes(&c).map_or(precision != Precision::F32, |tables| tables < bytes));
                assert!(Model::new(&c, precision, Isa::best(), &[]).is_err() && fill(&mut []).is_err());
            }
        }
        let batch = d.of(&[1, 2, 300, 1 << 24, usize::MAX / 2, usize::MAX]);
        let [images, rows] = [0, 1].map(|_| d.of(&[1, 2, 1000, 1 << 24, usize::MAX]));
        let budget = d.of(&[None, Some(0), Some(1 << 30), Some(usize::MAX)]);
        let precision = d.of(&Precision::ALL);
        for output in KINDS {
            let planned = Plan::new(&c, precision, output, batch, budget);
            if let (Ok(plan), Some(budget)) = (planned, budget) {
                assert!(plan.arena_bytes() <= budget);
            }
            let blocks = Plan::with_blocks(&c, precision, output, batch, images, rows);
            for plan in planned.into_iter().chain(blocks) {
                assert!(plan.arena_bytes() > 0 && plan.rows() > 0);
                assert_eq!(plan.output_len() / batch, output.len(&c).unwrap());
                let stages = Stage::ALL.into_iter().fold(0u64, |sum, stage| sum.saturating_add(plan.stage_macs(stage)));
                assert_eq!(plan.macs(), stages);
            }
        }
    });
    println!("{} configs accepted", accepted.get());
    assert!(accepted.get() > 1000, "{}", accepted.get());
}
