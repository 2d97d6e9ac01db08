//! Agreement with Pillow, transformers, timm and OpenCLIP, within the bounds that the crate's documentation states.
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use vit_image::{Picture, Preprocessing, config};

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(goldens(name)).unwrap()
}

#[derive(Deserialize)]
struct Processors {
    configs: serde_json::Map<String, Value>,
    tensors: Vec<Tensor>,
}

/// What a processor makes of a picture: 8-bit levels, or 64ths of levels.
#[derive(Deserialize)]
struct Tensor {
    case: String,
    picture: String,
    shape: [usize; 3],
    rescale: f64,
    mean: [f64; 3],
    std: [f64; 3],
    floats: bool,
    stride: usize,
    offset: usize,
}

/// The description that the files of a folder make.
fn described(files: &Value) -> Preprocessing {
    let file = |name: &str| files.get(name).cloned();
    let files = config::Files {
        config: file("config.json").or(file("open_clip_config.json")).unwrap_or_default(),
        preprocessor: file("preprocessor_config.json"),
        processor: file("processor_config.json"),
        image: None,
    };
    config::find(&files).unwrap()
}

/// How far samples are from what they should be, in levels.
#[derive(Default)]
struct Distance {
    sum: f64,
    most: f64,
    different: usize,
    count: usize,
}

impl Distance {
    fn add(&mut self, got: f64, want: f64) {
        let distance = (got - want).abs();
        self.sum += distance;
        self.most = self.most.max(distance);
        self.different += usize::from(distance > 0.5);
        self.count += 1;
    }
}

/// Every kind of processor, on crops of photographs, to smaller and to larger sizes.
#[test]
fn processors() {
    let Processors { configs, tensors } = serde_json::from_slice(&read("processors.json")).unwrap();
    let expected = read("processors.bin");
    assert!(tensors.len() > 290, "{}", tensors.len());
    for Tensor { case, picture, shape, rescale, mean, std, floats, stride, offset } in tensors {
        let how = described(&configs[&case]);
        let picture = Picture::decode(&read(&format!("{picture}.png")), 3, 1 << 20).unwrap();
        let [channels, height, width] = shape;
        assert_eq!(how.output_size(picture.size()), Ok([height, width]), "{case}");
        let mut out = vec![f32::NAN; channels * height * width];
        how.apply(&picture, 1 << 20, &mut out).unwrap();
        let mut distance = Distance::default();
        for (i, x) in out.iter().enumerate().step_by(stride) {
            let channel = i / (height * width);
            let level = (f64::from(*x) * std[channel] + mean[channel]) / rescale;
            let at = i / stride;
            if floats {
                let bytes = [0, 1].map(|byte| expected[offset + 2 * at + byte]);
                distance.add(level, f64::from(i16::from_le_bytes(bytes)) / 64.0);
                continue;
            }
            // Zeros that were added after normalising stand for no level.
            if how.pad.is_some() && *x == 0.0 {
                continue;
            }
            assert!((level - level.round()).abs() < 2e-3, "{case}: a level of {level}");
            distance.add(level.round(), f64::from(expected[offset + at]));
        }
        let Distance { sum, most, different, count } = distance;
        let share = different as f64 / count as f64;
        let good = if floats {
            sum / count as f64 <= 0.05
        } else {
            if case.contains("bytes") { most <= 1.0 && share <= 0.01 } else { most == 0.0 }
        };
        assert!(good, "{case}: mean {:.4}, at most {most}, on {:.2} %", sum / count as f64, share * 100.0);
    }
}

/// Files of every format, as RGB and as grey.
#[test]
fn formats() {
    #[derive(Deserialize)]
    struct File {
        file: String,
        size: [usize; 2],
        offset: usize,
    }
    let files: Vec<File> = serde_json::from_slice(&read("formats.json")).unwrap();
    let expected = read("formats.bin");
    assert!(files.len() > 60, "{}", files.len());
    for File { file, size, offset } in files {
        let [height, width] = size;
        let expected = &expected[offset..];
        let (rgb, rest) = expected.split_at(3 * height * width);
        for (channels, expected) in [(3, rgb), (1, &rest[..height * width])] {
            let picture = Picture::decode(&read(&format!("formats/{file}")), channels, 1 << 20);
            let picture = picture.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(picture.size(), size, "{file}");
            let mut distance = Distance::default();
            let samples = picture.samples().iter().zip(expected);
            samples.for_each(|(got, want)| distance.add(f64::from(*got), f64::from(*want)));
            let Distance { most, different, count, .. } = distance;
            let share = different as f64 / count as f64;
            let lossy = file.ends_with(".jpg") || file.starts_with("lossy");
            let good = if lossy { most <= 3.0 && share <= 0.03 } else { most == 0.0 };
            assert!(good, "{file}, {channels} channels: at most {most}, on {:.2} %", share * 100.0);
        }
    }
}
