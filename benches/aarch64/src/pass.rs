//! A whole pass of ViT-Ti/16 at 224 × 224, pixels to logits, on one thread and with random weights.
use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;

use vit_engine::zoo::timm;
use vit_engine::{AlignedBox, Images, Model, Output, Param, Plan, Precision, Serial, Source, Values};
use vit_kernels::Isa;

use crate::{Counter, noise};

pub(crate) fn count_all(isa: Isa, counter: &Counter) {
    let config = timm::architecture("vit_tiny_patch16_224").expect("timm has it");
    let pixels = noise(config.channels * config.image[0] * config.image[1], 1);
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        let name = format!("vit_ti_{}", precision.name());
        if !counter.wants(&name) {
            continue;
        }
        let mut memory = AlignedBox::new(Model::bytes(&config, precision).expect("it fits memory")).expect("memory");
        let random = Noise(RefCell::new(fastrand::Rng::with_seed(1)));
        Model::fill(&config, precision, &random, &mut memory).expect("noise is finite");
        let model = Model::new(&config, precision, isa, &memory).expect("it was filled for these");
        let plan = Plan::new(&config, precision, Output::Logits, 1, None).expect("there is no budget to exceed");
        let mut images = Images::new(&pixels, [config.channels, config.image[0], config.image[1]]).expect("one image");
        let mut arena = AlignedBox::new(plan.arena_bytes()).expect("memory for the arena");
        let mut logits = vec![0.0; plan.output_len()];
        counter.count(&name, || {
            let images = black_box(&mut images);
            model.forward(&plan, images, &mut arena, &Serial, &mut logits).expect("all of it fits");
        });
        assert!(logits.iter().all(|x| x.is_finite()));
    }
}

/// Every parameter uniform in ±1/√columns, as `nn.Linear` is initialised: nothing overflows or becomes subnormal.
struct Noise(RefCell<fastrand::Rng>);

impl Source for Noise {
    type Error = Infallible;

    fn open(&self, _: Param, [_, columns]: [usize; 2]) -> Result<impl Values, Infallible> {
        let bound = 1.0 / (columns as f32).sqrt();
        Ok(move |_row: usize, _start: usize, into: &mut [f32]| {
            let mut random = self.0.borrow_mut();
            into.fill_with(|| bound * (2.0 * random.f32() - 1.0));
        })
    }
}
