//! The same bits whatever the block size, the budget, the batch and the threads.
mod support;

use support::{Golden, emulated, golden, levels, levels_for, run_plan};
use vit_engine::{
    AlignedBox, ForwardError, Images, Isa, MemoryError, Output, Plan, PlanError, Precision, Serial, ThreadPool,
    arena_bytes,
};

const KINDS: [Output; 11] = [
    Output::Logits,
    Output::Class,
    Output::Patches,
    Output::Registers,
    Output::Embedding,
    Output::Layer(0),
    Output::Layer(1),
    Output::Layers,
    Output::Attention,
    Output::AttentionOfLayer(2),
    Output::PoolAttention,
];

/// Five images: those of the golden file, over and over.
fn five(pixels: &[f32], image: usize) -> Vec<f32> {
    (0..5).flat_map(|i| &pixels[i % 2 * image..][..image]).enumerate().map(|(i, x)| x + i as f32 * 1e-5).collect()
}

#[test]
fn every_block_size_and_every_group_of_images() {
    let plain = ["vp-old-cls", "vp-middle-mean", "vp-new-mean", "timm-rect", "timm-avg"];
    let parts = [
        "timm-distilled",
        "timm-siglip-tanh",
        "timm-beit3",
        "timm-qk-norm",
        "timm-beit",
        "eva02-base",
        "dinov2-registers-classes",
    ];
    let models: Vec<_> = plain.into_iter().chain(parts).map(golden).collect();
    std::thread::scope(|scope| {
        for isa in levels() {
            let models = &models;
            scope.spawn(move || {
                for precision in Precision::ALL.into_iter().filter(|precision| levels_for(*precision).contains(&isa)) {
                    for golden in models {
                        // All block sizes of one model: the others differ from it in no more than the blocks' number.
                        blocks_and_groups(golden, precision, isa, golden.name == plain[0]);
                    }
                }
            });
        }
    });
}

/// Outputs of five images at once, against those in blocks and groups of many sizes, and in smaller batches. Blocks are of
/// all sizes, or of those below 30 and of multiples of 7; on an emulated CPU of powers of 3. What a model can give is tried
/// in f32; in other precisions only what shows every layer, map and head.
fn blocks_and_groups(golden: &Golden, precision: Precision, isa: Isa, every: bool) {
    let (loaded, pixels) = (golden.load(precision), golden.tensor("pixels").unwrap());
    let (model, config) = (loaded.model(isa), *loaded.config());
    let image = pixels.data.len() / pixels.shape[0];
    let batch = five(&pixels.data, image);
    let kinds: &[Output] = match precision {
        Precision::F32 => &KINDS,
        _ => &[Output::Logits, Output::Layers, Output::Attention, Output::PoolAttention],
    };
    for &output in kinds.iter().filter(|output| output.len(&config).is_some()) {
        let name = format!("{} {isa} {precision:?} {output:?}", golden.name);
        let whole = Plan::new(&config, precision, output, 5, None).unwrap();
        let want = run_plan(&model, &whole, &batch, &Serial);
        assert!(want.iter().all(|x| x.is_finite()), "{name}");
        for images in [1, 2, 5] {
            let step = |rows: &usize| match emulated() {
                true => 3usize.pow(rows.ilog(3)) == *rows,
                false => every || *rows < 30 || rows.is_multiple_of(7),
            };
            for rows in (1..=images * config.tokens()).filter(step) {
                let plan = Plan::with_blocks(&config, precision, output, 5, images, rows).unwrap();
                let got = run_plan(&model, &plan, &batch, &Serial);
                assert!(got == want, "{name}, {images} images, {rows} rows");
            }
        }
        for size in 1..5 {
            let plan = Plan::new(&config, precision, output, size, None).unwrap();
            let got = run_plan(&model, &plan, &batch[..size * image], &Serial);
            assert!(got == want[..got.len()], "{name}, batch {size}");
        }
    }
}

#[test]
fn every_budget_from_the_minimum_up() {
    let golden = golden("timm-token");
    let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
    let (model, config) = (loaded.model(Isa::best()), *loaded.config());
    let unbounded = Plan::new(&config, Precision::F32, Output::Logits, 2, None).unwrap();
    let want = run_plan(&model, &unbounded, &pixels.data, &Serial);
    let minimum = Plan::minimum_bytes(&config, Precision::F32, Output::Logits, 2).unwrap();
    for budget in (minimum..=unbounded.arena_bytes() + 64).step_by(64) {
        let plan = Plan::new(&config, Precision::F32, Output::Logits, 2, Some(budget)).unwrap();
        assert!(plan.arena_bytes() <= budget);
        assert!(run_plan(&model, &plan, &pixels.data, &Serial) == want, "{budget} bytes");
    }
    let budget = minimum - 1;
    assert_eq!(
        Plan::new(&config, Precision::F32, Output::Logits, 2, Some(budget)),
        Err(PlanError::Budget { minimum, budget })
    );
}

#[test]
fn a_pass_neither_reads_what_the_arena_held_nor_writes_behind_it() {
    for name in ["timm-token", "timm-siglip-tanh", "timm-beit", "eva02-base", "timm-avgmax"] {
        let golden = golden(name);
        let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
        let (model, c) = (loaded.model(Isa::best()), *loaded.config());
        let mut images = Images::new(&pixels.data, [c.channels, c.image[0], c.image[1]]).unwrap();
        for output in KINDS.into_iter().filter(|output| output.len(&c).is_some()) {
            let want =
                run_plan(&model, &Plan::new(&c, Precision::F32, output, 2, None).unwrap(), &pixels.data, &Serial);
            for (group, rows) in [(1, 1), (1, 5), (2, 3), (2, usize::MAX)] {
                let plan = Plan::with_blocks(&c, Precision::F32, output, 2, group, rows).unwrap();
                let bytes = plan.arena_bytes();
                assert_eq!(arena_bytes(&c, Precision::F32, group, rows), Some(bytes));
                let mut memory = AlignedBox::new(bytes + 4096).unwrap();
                memory.fill(0xFF); // NaN, as f32
                let mut out = vec![f32::NAN; plan.output_len()];
                let small = model.forward(&plan, &mut images, &mut memory[..bytes - 1], &Serial, &mut out);
                let error = MemoryError::TooSmall { needed: bytes, found: bytes - 1 };
                assert_eq!(small, Err(ForwardError::Arena(error)));
                model.forward(&plan, &mut images, &mut memory, &Serial, &mut out).unwrap();
                assert!(out == want, "{name} {output:?} {group} images, {rows} rows");
                assert!(memory[bytes..].iter().all(|byte| *byte == 0xFF), "{name} {output:?}");
            }
        }
    }
}

#[test]
fn every_number_of_threads() {
    for name in ["vp-old-identity", "timm-token", "timm-siglip-tanh", "timm-beit", "eva02-base"] {
        let golden = golden(name);
        let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
        for isa in levels_for(Precision::F32) {
            let model = loaded.model(isa);
            for output in KINDS.into_iter().filter(|output| output.len(loaded.config()).is_some()) {
                let plan = Plan::new(loaded.config(), Precision::F32, output, 2, None).unwrap();
                let want = run_plan(&model, &plan, &pixels.data, &Serial);
                for threads in (1..=5).filter(|threads| !emulated() || [2, 3].contains(threads)) {
                    let pool = ThreadPool::new(threads).unwrap();
                    let got = run_plan(&model, &plan, &pixels.data, &pool);
                    assert!(got == want, "{name} {isa} {output:?} {threads} threads");
                }
            }
        }
    }
}

#[test]
fn fused_levels_agree() {
    // The targets on which the portable level fuses.
    let portable = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    let mut fused = levels_for(Precision::F32);
    fused.retain(|isa| portable || *isa != Isa::PORTABLE);
    let Some((first, others)) = fused.split_first() else { return };
    for golden in support::goldens() {
        let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
        for output in KINDS.into_iter().filter(|output| output.len(loaded.config()).is_some()) {
            let run = |isa| support::run(&loaded.model(isa), output, &pixels);
            let want = run(*first);
            for isa in others {
                assert!(run(*isa) == want, "{} {output:?}: {first} and {isa}", golden.name);
            }
        }
    }
}

/// int8 and int4 round every operation for itself: their bits are the same on every level, fused or not.
#[test]
fn quantised_models_agree_on_every_level() {
    for golden in support::goldens() {
        let pixels = golden.tensor("pixels").unwrap();
        for precision in [Precision::Int8, Precision::Int4] {
            let loaded = golden.load(precision);
            for output in KINDS.into_iter().filter(|output| output.len(loaded.config()).is_some()) {
                let run = |isa| support::run(&loaded.model(isa), output, &pixels);
                let want = run(Isa::PORTABLE);
                for isa in levels_for(precision).into_iter().filter(|isa| *isa != Isa::PORTABLE) {
                    assert!(run(isa) == want, "{} {precision} {output:?}: {isa}", golden.name);
                }
            }
        }
    }
}

#[test]
fn pixels_may_come_from_a_callback() {
    let golden = golden("timm-rect");
    let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
    let (model, c) = (loaded.model(Isa::best()), *loaded.config());
    let plan = Plan::new(&c, Precision::F32, Output::Logits, 2, None).unwrap();
    let want = run_plan(&model, &plan, &pixels.data, &Serial);
    let mut arena = AlignedBox::new(plan.arena_bytes()).unwrap();
    let mut out = vec![0.0; plan.output_len()];

    let (mut calls, [height, width]) = (Vec::new(), c.image);
    let mut camera = |image: usize, top: usize, strip: &mut [f32]| {
        calls.push((image, top));
        for (i, x) in strip.iter_mut().enumerate() {
            let (channel, y, x_) = (i / (c.patch[0] * width), i / width % c.patch[0], i % width);
            *x = pixels.data[((image * c.channels + channel) * height + top + y) * width + x_];
        }
        Ok::<(), &str>(())
    };
    model.forward(&plan, &mut camera, &mut arena, &Serial, &mut out).unwrap();
    assert_eq!(out, want);
    let expected: Vec<_> = (0..2).flat_map(|image| (0..c.grid()[0]).map(move |row| (image, row * 8))).collect();
    assert_eq!(calls, expected);

    let mut broken = |_: usize, top: usize, _: &mut [f32]| if top == 0 { Ok(()) } else { Err("no signal") };
    let error = model.forward(&plan, &mut broken, &mut arena, &Serial, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "no signal");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let golden = golden("timm-token");
    let loaded = golden.load(Precision::F32);
    let (model, c) = (loaded.model(Isa::best()), *loaded.config());
    let plan = Plan::new(&c, Precision::F32, Output::Logits, 1, None).unwrap();
    let pixels = vec![0.0; 3 * 24 * 24];
    let mut arena = AlignedBox::new(plan.arena_bytes() + 64).unwrap();
    let mut run = |plan: &Plan, from: usize, len: usize, out: usize| {
        let mut images = Images::new(&pixels, [3, 24, 24]).unwrap();
        let result = model.forward(plan, &mut images, &mut arena[from..from + len], &Serial, &mut vec![0.0; out]);
        result.map_err(|error| error.to_string())
    };
    let (bytes, out) = (plan.arena_bytes(), plan.output_len());
    assert_eq!(run(&plan, 0, bytes, out), Ok(()));
    assert!(run(&plan, 0, bytes - 1, out).unwrap_err().contains(&format!("expected at least {bytes}")));
    assert!(run(&plan, 4, bytes, out).unwrap_err().contains("multiple of 64"));
    assert!(run(&plan, 0, bytes, out + 1).unwrap_err().contains("elements"));
    let batch = Plan::new(&c, Precision::F32, Output::Logits, 2, None).unwrap();
    assert!(
        run(&batch, 0, bytes, 2 * out)
            .unwrap_err()
            .contains("expected images of shape [2, 3, 24, 24], found [1, 3, 24, 24]")
    );
    let other = vit_engine::Config { depth: 1, ..c };
    let other = Plan::new(&other, Precision::F32, Output::Logits, 1, None).unwrap();
    assert!(run(&other, 0, bytes, out).unwrap_err().contains("another model"));
    // Weights packed for another precision are not misread.
    let weights = loaded.weights();
    assert!(vit_engine::Model::new(&c, Precision::F16, Isa::best(), weights).is_err());
    assert!(vit_engine::Model::new(&c, Precision::F32, Isa::best(), &weights[..weights.len() - 64]).is_err());
}
