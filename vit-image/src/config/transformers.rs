//! transformers' image processors (<https://github.com/huggingface/transformers>): the class, its defaults, its fields.
//!
//! The reference is each class's Pillow variant (`image_processing_pil_*.py`); DINOv3's has none, and torchvision's counts.
use serde_json::Value;

use super::fields::{HALF, IMAGENET, OPENAI, height_width, length, quoted, single};
use super::{ConfigError, Fields, timm};
use crate::description::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};

/// A class, and what it takes for fields that are not there.
struct Class {
    name: &'static str,
    size: Size,
    crop: Option<[usize; 2]>,
    crops: bool,
    filter: Filter,
    statistics: ([f64; 3], [f64; 3]),
    /// Whether one number is both sides of a square; else it is the shortest edge.
    square: bool,
    kind: Kind,
}

/// What is done in another way than most do it.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    /// Takes `use_square_size`.
    Clip,
    /// Does not pad.
    Beit,
    /// Crops by `crop_pct` below 384.
    ConvNext,
    /// Rescales before it resizes, in floating-point numbers.
    Dinov3,
}

const SQUARE: Size = Size::exact(224);
const SHORTEST: Size = Size { shortest: Some(224), ..Size::NONE };
const VIT: Class = Class {
    name: "ViTImageProcessor",
    size: SQUARE,
    crop: None,
    crops: false,
    filter: Filter::Bilinear,
    statistics: HALF,
    square: true,
    kind: Kind::Plain,
};
const CLIP: Class = Class {
    name: "CLIPImageProcessor",
    size: SHORTEST,
    crop: Some([224, 224]),
    crops: true,
    filter: Filter::Bicubic,
    statistics: OPENAI,
    square: false,
    kind: Kind::Clip,
};

const CLASSES: [Class; 8] = [
    VIT,
    Class {
        name: "DeiTImageProcessor",
        size: Size::exact(256),
        crop: Some([224, 224]),
        crops: true,
        filter: Filter::Bicubic,
        ..VIT
    },
    Class { name: "BeitImageProcessor", crop: Some([224, 224]), filter: Filter::Bicubic, kind: Kind::Beit, ..VIT },
    CLIP,
    Class { name: "BitImageProcessor", kind: Kind::Plain, ..CLIP },
    Class { name: "SiglipImageProcessor", filter: Filter::Bicubic, square: false, ..VIT },
    Class {
        name: "ConvNextImageProcessor",
        size: Size { shortest: Some(384), ..Size::NONE },
        filter: Filter::Bicubic,
        square: false,
        kind: Kind::ConvNext,
        ..VIT
    },
    Class { name: "DINOv3ViTImageProcessor", statistics: IMAGENET, kind: Kind::Dinov3, ..VIT },
];

/// The class of each `model_type`, as `AutoImageProcessor` has it.
const MODEL_TYPES: [(&str, &str); 8] = [
    ("vit", "ViTImageProcessor"),
    ("vit_mae", "ViTImageProcessor"),
    ("deit", "DeiTImageProcessor"),
    ("beit", "BeitImageProcessor"),
    ("clip", "CLIPImageProcessor"),
    ("siglip", "SiglipImageProcessor"),
    ("dinov2", "BitImageProcessor"),
    ("dinov3_vit", "DINOv3ViTImageProcessor"),
];

/// The names of the classes.
pub(super) fn classes() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|class| class.name)
}

/// Reads a processor's file; `config` is the model's.
pub(super) fn read(processor: &Value, config: &Value) -> Result<Preprocessing, ConfigError> {
    let fields = Fields::of(processor, "the image processor's config")?;
    let name = class_name(&fields, config)?;
    if name == "TimmWrapperImageProcessor" {
        let cfg = config.get("pretrained_cfg").or(fields.get("pretrained_cfg")).ok_or(ConfigError::Missing)?;
        return timm::read(cfg, None);
    }
    let class = CLASSES.iter().find(|class| class.name == name).ok_or(ConfigError::UnknownClass(name))?;
    class.read(&fields)
}

/// The class that `AutoImageProcessor` finds, without what makes it one of several variants.
fn class_name(fields: &Fields<'_>, config: &Value) -> Result<String, ConfigError> {
    let in_config = |field: &str| config.get(field).and_then(Value::as_str);
    let named = fields.text("image_processor_type")?.or(fields.text("feature_extractor_type")?);
    if let Some(name) = named.or(in_config("image_processor_type")) {
        let name = ["Fast", "Pil"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let extractor = name.strip_suffix("FeatureExtractor").map(|name| format!("{name}ImageProcessor"));
        return Ok(extractor.unwrap_or(name.into()));
    }
    let model_type = in_config("model_type");
    let class = MODEL_TYPES.iter().find(|(known, _)| model_type == Some(known)).map(|(_, class)| (*class).to_owned());
    class.ok_or_else(|| ConfigError::NoClass(model_type.map(str::to_owned)))
}

impl Class {
    fn read(&self, fields: &Fields<'_>) -> Result<Preprocessing, ConfigError> {
        let does = |field: &str, default| fields.flag(field).map(|does| does.unwrap_or(default));
        let square = does("default_to_square", self.square)?;
        let mut size = Size::read(fields, "size", square)?.unwrap_or(self.size);
        if self.kind == Kind::Clip && does("use_square_size", false)? {
            size = SQUARE;
        }
        let filter = filter(fields)?.unwrap_or(self.filter);
        let (mut resize, mut crop, mut crop_pct) = (None, None, None);
        if does("do_resize", true)? {
            let to = if self.kind == Kind::ConvNext {
                let edge = size.shortest.ok_or_else(|| fields.wrong("size", "a shortest_edge"))?;
                let share = fields.number("crop_pct")?.unwrap_or(224.0 / 256.0);
                if edge < 384 {
                    (crop, crop_pct) = (Some([edge, edge]), Some(share));
                    Target::Shortest { edge: (edge as f64 / share) as usize, limit: None }
                } else {
                    Target::Exact([edge, edge])
                }
            } else {
                size.target()?
            };
            resize = Some(Resize { to, filter });
        }
        if does("do_center_crop", self.crops)? {
            if crop.is_some() {
                return Err(ConfigError::Unsupported("do_center_crop beside crop_pct".into()));
            }
            let size = Size::read(fields, "crop_size", true)?;
            let size = size.map_or(self.crop, Size::both);
            crop = Some(size.ok_or_else(|| fields.wrong("crop_size", "a height and a width"))?);
        }
        let rescales = does("do_rescale", true)?;
        let floats = self.kind == Kind::Dinov3 && rescales;
        // torchvision's rounds down what it adds, Pillow's up.
        let pads = if self.kind == Kind::Dinov3 { Rounding::Down } else { Rounding::Up };
        let normalises = does("do_normalize", true)?;
        if self.kind == Kind::Dinov3 && normalises && !rescales {
            return Err(ConfigError::Unsupported(
                "do_normalize without do_rescale, in DINOv3ViTImageProcessor,".into(),
            ));
        }
        if floats && resize.is_some() && !matches!(filter, Filter::Nearest | Filter::Bilinear | Filter::Bicubic) {
            return Err(ConfigError::Unsupported(format!("the filter {} of floating-point samples", filter.name())));
        }
        let numbers = |field: &str, default: [f64; 3]| -> Result<Vec<f32>, ConfigError> {
            Ok(single(&fields.numbers(field)?.unwrap_or(default.to_vec())))
        };
        let (mean, std) = if normalises {
            (numbers("image_mean", self.statistics.0)?, numbers("image_std", self.statistics.1)?)
        } else {
            (vec![0.0], vec![1.0])
        };
        let pad = match self.kind {
            Kind::Beit | Kind::ConvNext | Kind::Dinov3 => None,
            // Without a size it pads to the largest picture of a batch, which is the picture itself.
            Kind::Plain | Kind::Clip if does("do_pad", false)? => match Size::read(fields, "pad_size", true)? {
                Some(size) => Some(size.both().ok_or_else(|| fields.wrong("pad_size", "a height and a width"))?),
                None => None,
            },
            Kind::Plain | Kind::Clip => None,
        };
        Ok(Preprocessing {
            resize,
            crop: crop.map(|size| Crop { size, cuts: Rounding::Down, pads, fill: vec![0] }),
            crop_pct,
            rescale: if rescales { fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0) } else { 1.0 },
            mean,
            std,
            pad,
            arithmetic: if floats { Arithmetic::Floats } else { Arithmetic::Bytes },
        })
    }
}

/// Pillow's numbers of its filters.
fn filter(fields: &Fields<'_>) -> Result<Option<Filter>, ConfigError> {
    let filter = |number: &Value| match number.as_u64() {
        Some(0) => Ok(Filter::Nearest),
        Some(1) => Ok(Filter::Lanczos),
        Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        Some(4) => Ok(Filter::Box),
        Some(5) => Ok(Filter::Hamming),
        _ => Err(fields.wrong("resample", "one of Pillow's filters, 0 to 5")),
    };
    fields.get("resample").map(filter).transpose()
}

/// transformers' sizes: one of several sets of keys.
#[derive(Clone, Copy, Default)]
struct Size {
    height: Option<usize>,
    width: Option<usize>,
    shortest: Option<usize>,
    longest: Option<usize>,
    max_height: Option<usize>,
    max_width: Option<usize>,
}

impl Size {
    const NONE: Self =
        Self { height: None, width: None, shortest: None, longest: None, max_height: None, max_width: None };

    const fn exact(side: usize) -> Self {
        Self { height: Some(side), width: Some(side), ..Self::NONE }
    }

    /// A field that is an object, a number, or `[height, width]`.
    fn read(fields: &Fields<'_>, field: &str, square: bool) -> Result<Option<Self>, ConfigError> {
        let Some(value) = fields.get(field) else { return Ok(None) };
        let wrong = || fields.wrong(field, "a number of pixels, or height and width, or shortest_edge");
        let size = match value {
            Value::Number(_) if !square => Self { shortest: Some(length(value).ok_or_else(wrong)?), ..Self::NONE },
            Value::Object(keys) => {
                let mut size = Self::NONE;
                for (key, value) in keys.iter().filter(|(_, value)| !value.is_null()) {
                    let place = match &**key {
                        "height" => &mut size.height,
                        "width" => &mut size.width,
                        "shortest_edge" => &mut size.shortest,
                        "longest_edge" => &mut size.longest,
                        "max_height" => &mut size.max_height,
                        "max_width" => &mut size.max_width,
                        other => return Err(ConfigError::Unsupported(format!("{field} with {}", quoted(other)))),
                    };
                    *place = Some(length(value).ok_or_else(wrong)?);
                }
                size
            }
            value => {
                let [height, width] = height_width(value).ok_or_else(wrong)?;
                Self { height: Some(height), width: Some(width), ..Self::NONE }
            }
        };
        Ok(Some(size))
    }

    fn both(self) -> Option<[usize; 2]> {
        self.height.zip(self.width).map(|(height, width)| [height, width])
    }

    fn target(self) -> Result<Target, ConfigError> {
        match self {
            Self { shortest: Some(edge), longest, height: None, width: None, max_height: None, max_width: None } => {
                Ok(Target::Shortest { edge, limit: longest })
            }
            Self { max_height: Some(height), max_width: Some(width), height: None, width: None, .. } => {
                Ok(Target::Within([height, width]))
            }
            Self { height: Some(height), width: Some(width), shortest: None, longest: None, .. } => {
                Ok(Target::Exact([height, width]))
            }
            _ => Err(ConfigError::Unsupported("this combination of keys in size".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Files, find};

    fn read(processor: &Value, config: &Value) -> Result<Preprocessing, ConfigError> {
        find(&Files { config: config.clone(), preprocessor: Some(processor.clone()), ..Files::default() })
    }

    #[test]
    fn the_class_is_found_as_auto_image_processor_finds_it() {
        let vit = read(&json!({"image_processor_type": "ViTImageProcessor"}), &Value::Null).unwrap();
        for (processor, config) in [
            (json!({"image_processor_type": "ViTImageProcessorFast"}), json!({"model_type": "clip"})),
            (json!({"image_processor_type": "ViTImageProcessorPil"}), Value::Null),
            (json!({"feature_extractor_type": "ViTFeatureExtractor"}), json!({"model_type": "clip"})),
            (json!({}), json!({"model_type": "vit_mae"})),
            (json!({"image_processor_type": null}), json!({"model_type": "vit"})),
            (json!({}), json!({"image_processor_type": "ViTImageProcessor", "model_type": "clip"})),
        ] {
            assert_eq!(read(&processor, &config).as_ref(), Ok(&vit), "{processor} {config}");
        }
        let class = "Foo\u{1b}ImageProcessorFast";
        let error = read(&json!({"image_processor_type": class}), &json!({"model_type": "vit"})).unwrap_err();
        assert_eq!(error, ConfigError::UnknownClass("Foo\u{1b}ImageProcessor".into()));
        assert!(error.to_string().contains("'Foo\\u{1b}ImageProcessor' is not supported"), "{error}");
        let error = read(&json!({}), &json!({"model_type": "dinov2_with_registers"})).unwrap_err();
        assert_eq!(error, ConfigError::NoClass(Some("dinov2_with_registers".into())));
        assert_eq!(read(&json!({}), &Value::Null), Err(ConfigError::NoClass(None)));
        assert_eq!(find(&Files::default()), Err(ConfigError::Missing));
    }

    /// The nested format goes before the file of its own; one without an image processor is none.
    #[test]
    fn nested_processors() {
        let flat = json!({"image_processor_type": "CLIPImageProcessor"});
        let nested = json!({"processor_class": "CLIPProcessor", "image_processor":
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}, "crop_size": 336}});
        let find = |processor: Value| {
            let files = Files { preprocessor: Some(flat.clone()), processor: Some(processor), ..Files::default() };
            find(&files).unwrap().fixed_size()
        };
        assert_eq!(find(nested), Some([336, 336]));
        assert_eq!(find(json!({"processor_class": "CLIPProcessor"})), Some([224, 224]));
    }

    #[test]
    fn an_integer_size_means_what_the_class_makes_of_it() {
        let target = |class: &str, size: Value| {
            let how = read(&json!({"image_processor_type": class, "size": size}), &Value::Null);
            how.map(|how| how.resize.unwrap().to)
        };
        let square = Target::Exact([96, 96]);
        let shortest = Target::Shortest { edge: 96, limit: None };
        for (class, to) in [
            ("ViTImageProcessor", square),
            ("DeiTImageProcessor", square),
            ("BeitImageProcessor", square),
            ("DINOv3ViTImageProcessor", square),
            ("CLIPImageProcessor", shortest),
            ("BitImageProcessor", shortest),
            ("SiglipImageProcessor", shortest),
            // ⌊96 / 0.875⌋
            ("ConvNextImageProcessor", Target::Shortest { edge: 109, limit: None }),
        ] {
            assert_eq!(target(class, json!(96)), Ok(to), "{class}");
        }
        let vit = |size| target("ViTImageProcessor", size);
        assert_eq!(vit(json!({"shortest_edge": 96})), Ok(shortest));
        assert_eq!(vit(json!([24, 40])), Ok(Target::Exact([24, 40])));
        assert_eq!(
            vit(json!({"shortest_edge": 96, "longest_edge": 200})),
            Ok(Target::Shortest { edge: 96, limit: Some(200) })
        );
        assert_eq!(vit(json!({"max_height": 30, "max_width": 50})), Ok(Target::Within([30, 50])));
        for size in [
            json!({"longest_edge": 96}),
            json!({"min_pixels": 1, "max_pixels": 9}),
            json!({"height": 96}),
            json!(0),
            json!(-1),
            json!(1.5),
            json!("224"),
            json!([1, 2, 3]),
            json!(1u64 << 40),
        ] {
            assert!(vit(size.clone()).is_err(), "{size}");
        }
    }

    /// `do_*` decide, not whether a size is there; null is not there.
    #[test]
    fn switches_decide() {
        let read = |processor: Value| read(&processor, &json!({"model_type": "deit"})).unwrap();
        let how = read(json!({"do_resize": false, "do_center_crop": false, "size": 100, "crop_size": 90}));
        assert_eq!((how.resize, how.crop), (None, None));
        let how = read(json!({"do_resize": null, "size": null, "do_center_crop": null, "crop_size": [90, 80]}));
        assert_eq!(how.resize.unwrap().to, Target::Exact([256, 256]));
        assert_eq!(how.crop.unwrap().size, [90, 80]);
        let how = read(json!({"do_normalize": false, "do_rescale": false}));
        assert_eq!((how.mean, how.std, how.rescale), (vec![0.0], vec![1.0], 1.0));
        let how = read(json!({"image_mean": 0.5, "image_std": 0.25, "do_pad": true, "pad_size": 300}));
        assert_eq!((how.mean, how.std, how.pad), (vec![0.5], vec![0.25], Some([300, 300])));
    }
}
