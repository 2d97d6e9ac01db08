//! An owned session gives the bits of the borrowing interface, and typed errors.
mod support;

use std::error::Error;
use std::sync::Arc;

use support::{golden, model, output, parse, run};
use vit_engine::file::SizeError;
use vit_engine::{
    ForwardError, ImagesError, Isa, Output, PlanError, Precision, Session, SessionError, SessionOptions, ThreadPool,
};

/// Every output at every size, in one session after the other, image by image and all at once.
#[test]
fn it_gives_the_same_bits_whatever_the_batch() {
    let pool = Arc::new(ThreadPool::new(3).unwrap());
    for name in ["dinov2-model", "timm-token"] {
        let golden = golden(name);
        let loaded = Arc::new(golden.load(Precision::F32));
        for name in golden.truths().iter().filter(|name| !name.starts_with("pixels")) {
            let (kind, size) = parse(name);
            let pixels = golden.tensor(&name.replacen(kind, "pixels", 1)).unwrap();
            let want = run(&model(&loaded, Isa::best(), size), output(kind), &pixels);
            let batch = pixels.shape[0];
            for (planned, budget) in [(1, None), (batch, None), (7, Some(1 << 20))] {
                let options = SessionOptions {
                    output: output(kind),
                    image: size,
                    batch: planned,
                    budget,
                    executor: pool.clone(),
                    ..Default::default()
                };
                let mut session = Session::new(Arc::clone(&loaded), options).unwrap();
                assert_eq!(session.output_len(batch), want.len());
                assert_eq!(session.output_shape().iter().product::<usize>(), session.output_len(1));
                assert!(budget.is_none_or(|budget| session.arena_bytes() <= budget));
                for _ in 0..2 {
                    let mut out = vec![f32::NAN; want.len()];
                    session.forward(&pixels.data, &mut out).unwrap();
                    assert!(out == want, "{name}");
                    out.fill(f32::NAN);
                    let images = pixels.data.chunks_exact(session.image_len());
                    for (pixels, out) in images.zip(out.chunks_exact_mut(want.len() / batch)) {
                        session.forward(pixels, out).unwrap();
                    }
                    assert!(out == want, "{name}, image by image");
                }
            }
        }
    }
}

/// What each of them gives by itself.
#[test]
fn all_layers_in_one_pass() {
    for name in ["dinov2-model", "timm-token", "timm-avg"] {
        let golden = golden(name);
        let loaded = golden.load(Precision::F32);
        let (model, pixels) = (loaded.model(Isa::best()), golden.tensor("pixels").unwrap());
        let all = run(&model, Output::Layers, &pixels);
        let c = model.config();
        let images = all.chunks_exact(all.len() / pixels.shape[0]);
        for layer in 0..=c.depth {
            let want = run(&model, Output::Layer(layer), &pixels);
            let len = c.tokens() * c.dim;
            let got: Vec<_> = images.clone().flat_map(|image| &image[layer * len..][..len]).copied().collect();
            assert!(got == want, "{name}, layer {layer}");
        }
        assert_eq!(all.len(), pixels.shape[0] * (c.depth + 1) * c.tokens() * c.dim);
    }
}

#[test]
fn the_maps_of_one_layer_are_those_of_all() {
    let golden = golden("timm-reg4-dinov2");
    let (loaded, pixels) = (Arc::new(golden.load(Precision::F32)), golden.tensor("pixels").unwrap());
    let run = |output| {
        let options = SessionOptions { output, batch: 2, ..Default::default() };
        let mut session = Session::new(Arc::clone(&loaded), options).unwrap();
        let mut out = vec![f32::NAN; session.output_len(2)];
        session.forward(&pixels.data, &mut out).unwrap();
        assert_eq!(session.output_shape().iter().product::<usize>(), session.output_len(1));
        out
    };
    let (all, depth) = (run(Output::Attention), loaded.config().depth);
    for layer in 1..=depth {
        let one = run(Output::AttentionOfLayer(layer));
        let len = one.len() / 2;
        let of_all = (0..2).flat_map(|image| &all[(image * depth + layer - 1) * len..][..len]);
        assert!(one.iter().eq(of_all), "layer {layer}");
    }
    for layer in [0, depth + 1] {
        let options = SessionOptions { output: Output::AttentionOfLayer(layer), ..Default::default() };
        assert!(Session::new(Arc::clone(&loaded), options).is_err());
    }
}

#[test]
fn it_is_owned_and_changes_its_size() {
    let golden = golden("dinov2-model");
    let options = SessionOptions { output: Output::Embedding, batch: 2, ..Default::default() };
    let mut session = Session::new(golden.load(Precision::F32), options).unwrap();
    let own = session.config().image;
    let thread = std::thread::spawn(move || {
        let truths = golden.truths();
        let sizes: Vec<_> =
            truths.iter().filter(|name| name.starts_with("embedding")).map(|name| parse(name)).collect();
        assert!(sizes.len() > 1);
        for (_, size) in sizes {
            session.resize(size.unwrap_or(own)).unwrap();
            let name = |kind: &str| match size {
                Some([height, width]) => format!("{kind}@{height}x{width}"),
                None => kind.to_owned(),
            };
            let pixels = golden.tensor(&name("pixels")).unwrap();
            let want = run(&model(session.loaded(), Isa::best(), size), Output::Embedding, &pixels);
            let mut out = vec![f32::NAN; session.output_len(pixels.shape[0])];
            session.forward(&pixels.data, &mut out).unwrap();
            assert!(out == want, "{size:?}");
        }
        // What cannot be leaves it as it was.
        let before = session.config().image;
        assert!(matches!(session.resize([1, 1]), Err(SessionError::Size(SizeError::Config(_)))));
        assert_eq!(session.config().image, before);
        session.forward(&vec![0.0; session.image_len()], &mut vec![0.0; session.output_len(1)]).unwrap();
    });
    thread.join().unwrap();
}

#[test]
fn errors_say_what_does_not_fit() {
    let loaded = Arc::new(golden("timm-token").load(Precision::F32));
    let session = |options: SessionOptions| Session::new(Arc::clone(&loaded), options);
    let error = session(SessionOptions { batch: 0, ..Default::default() }).err().unwrap();
    assert_eq!(error, SessionError::Plan(PlanError::Empty));
    let error = session(SessionOptions { budget: Some(100), ..Default::default() }).err().unwrap();
    assert!(matches!(error, SessionError::Plan(PlanError::Budget { budget: 100, .. })), "{error}");
    let error = session(SessionOptions { image: Some([1, 1]), ..Default::default() }).err().unwrap();
    let cause = error.source().and_then(Error::source).unwrap();
    assert!(matches!(error, SessionError::Size(SizeError::Config(_))) && cause.is::<vit_engine::ConfigError>());

    let mut session = session(SessionOptions::default()).unwrap();
    let (len, [height, width]) = (session.image_len(), session.config().image);
    let mut out = vec![0.0; session.output_len(1)];
    let mut error =
        |pixels: usize, outputs: usize| session.forward(&vec![0.0; pixels], &mut out[..outputs]).unwrap_err();
    let classes = loaded.config().classes;
    let not_whole = ImagesError::NotWhole { len: len - 1, shape: [3, height, width] };
    assert_eq!(error(len - 1, classes), SessionError::Images(not_whole));
    assert_eq!(error(0, classes), SessionError::Plan(PlanError::Empty));
    let output = ForwardError::OutputLen { expected: classes, found: classes - 1 };
    assert_eq!(error(len, classes - 1), SessionError::Forward(output));
}
