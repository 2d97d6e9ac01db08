//! Every error that wraps another gives it as its source, and shows its message.
#![cfg(feature = "checkpoints")]
use std::error::Error;
use std::io;

use vit_engine::file::{LoadError, Problem, SizeError};
use vit_engine::zoo::ZooError;
use vit_engine::{
    ConfigError, FillError, ForwardError, ImagesError, MemoryError, ModelError, OutOfMemory, PackedError, PlanError,
    SessionError,
};

/// An error, and the message of the one that it wraps.
fn wraps(error: impl Error + 'static, inner: impl Error) {
    let source = error.source().unwrap_or_else(|| panic!("{error:?} has no source"));
    assert_eq!(source.to_string(), inner.to_string(), "{error:?}");
    assert!(error.to_string().contains(&inner.to_string()), "{error}");
}

#[test]
fn wrapped_errors_are_sources() {
    let config = ConfigError::TooLarge;
    let memory = MemoryError::Misaligned;
    let images = ImagesError::NotWhole { len: 5, shape: [3, 2, 2] };
    let out_of_memory = OutOfMemory { bytes: 7 };
    let io = || io::Error::other("the disk is on fire");

    wraps(PlanError::Config(config), config);
    wraps(ForwardError::<ImagesError>::Arena(memory), memory);
    wraps(ForwardError::Pixels(images), images);
    wraps(ModelError::Config(config), config);
    wraps(ModelError::Memory(memory), memory);
    wraps(FillError::<ImagesError>::Config(config), config);
    wraps(FillError::<ImagesError>::Memory(memory), memory);
    wraps(FillError::Source(images), images);
    wraps(PackedError::Config(config), config);
    wraps(PackedError::Memory(memory), memory);
    wraps(SizeError::Config(config), config);
    wraps(SizeError::Model(ModelError::Memory(memory)), memory);
    wraps(ZooError::Config(config), config);
    wraps(Problem::Io(io()), io());
    wraps(Problem::NoConfig(io()), io());
    wraps(Problem::Zoo(ZooError::Config(config)), config);
    wraps(Problem::Packed(PackedError::Memory(memory)), memory);
    wraps(LoadError { path: "model".into(), problem: Problem::Io(io()) }, io());
    wraps(SessionError::Size(SizeError::Config(config)), config);
    wraps(SessionError::Plan(PlanError::Config(config)), config);
    wraps(SessionError::OutOfMemory(out_of_memory), out_of_memory);
    wraps(SessionError::Images(images), images);
    wraps(SessionError::Forward(ForwardError::Pixels(images)), images);
}

#[test]
fn other_errors_have_no_source() {
    let errors: [&dyn Error; 5] = [
        &PlanError::Empty,
        &ForwardError::<ImagesError>::OtherPlan,
        &ModelError::OtherGrid { own: [1, 1], found: [2, 2] },
        &PackedError::NotGguf,
        &ZooError::Field("image_size".into()),
    ];
    for error in errors {
        assert!(error.source().is_none(), "{error:?}");
    }
}
