"""What Pillow, transformers, timm and open_clip make of a picture, by the files of a model.

Each processor is a case: the files of a model's folder. `reference(files, image)` is the tensor that the library itself
makes, and how its numbers come of 8-bit levels: x = (level * rescale - mean) / std.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPENAI = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def transformers_case(model_type=None, nested=False, **processor):
    files = {}
    if model_type:
        files["config.json"] = {"model_type": model_type}
    if nested:
        files["processor_config.json"] = {"processor_class": "CLIPProcessor", "image_processor": processor}
    else:
        files["preprocessor_config.json"] = processor
    return files


def timm_case(flat=False, **cfg):
    if flat:
        return {"config.json": {"architecture": "vit_tiny_patch16_224", **cfg}}
    return {"config.json": {"architecture": "vit_tiny_patch16_224", "num_classes": 10, "pretrained_cfg": cfg}}


def open_clip_case(size, **cfg):
    return {"open_clip_config.json": {"model_cfg": {}, "preprocess_cfg": {"size": size, **cfg}}}


def cases(side):
    """Every kind of processor, for outputs of about `side` pixels."""
    larger = side * 8 // 7
    crop = {"height": side, "width": side}
    exact = {"size": {"height": side, "width": side}}
    shortest = {"size": {"shortest_edge": larger}, "crop_size": crop}
    named = lambda name, **fields: transformers_case(image_processor_type=f"{name}ImageProcessor", **fields)
    hf = {
        "vit": named("ViT", **exact),
        "vit-fast": transformers_case(image_processor_type="ViTImageProcessorFast", size=side),
        "vit-extractor": transformers_case(
            feature_extractor_type="ViTFeatureExtractor", size=side, resample=3, image_mean=IMAGENET[0], image_std=IMAGENET[1]
        ),
        "vit-model-type": transformers_case("vit_mae", size=side, do_normalize=False),
        "vit-raw": named("ViT", do_rescale=False, image_mean=[127.5] * 3, image_std=[63.75] * 3, **exact),
        "vit-shortest": named("ViT", size={"shortest_edge": side}),
        "vit-limited": named("ViT", size={"shortest_edge": side, "longest_edge": side + 5}),
        "vit-within": named("ViT", size={"max_height": side, "max_width": side + 9}),
        "vit-rectangle": named("ViT", size=[side, side + 7], resample=1),
        "vit-no-resize": named("ViT", do_resize=False, do_center_crop=True, crop_size=side),
        "vit-larger-crop": named("ViT", do_resize=False, do_center_crop=True, crop_size=[211, 190]),
        "vit-padded": named("ViT", do_pad=True, pad_size={"height": side + 3, "width": side + 6}, **exact),
        "vit-nearest": named("ViT", resample=0, **exact),
        "vit-box": named("ViT", resample=4, **exact),
        "vit-hamming": named("ViT", resample=5, **exact),
        "deit": named("DeiT", size=larger, crop_size=side),
        "deit-pad": named("DeiT", size=[side, side + 3], crop_size=[side + 5, side + 2]),
        "beit": named("Beit", **exact),
        "beit-crop": named("Beit", size=larger, do_center_crop=True, crop_size=side, resample=2),
        "clip": named("CLIP", **shortest),
        "clip-int": named("CLIP", size=larger, crop_size=side),
        "clip-odd": named("CLIP", size=larger + 1, crop_size=side),
        "clip-no-crop": named("CLIP", size=side, do_center_crop=False),
        "clip-nested": transformers_case(nested=True, image_processor_type="CLIPImageProcessor", **shortest),
        "siglip": named("Siglip", **exact),
        "siglip-bilinear": named("Siglip", resample=2, **exact),
        "dinov2": named("Bit", image_mean=IMAGENET[0], image_std=IMAGENET[1], **shortest),
        "dinov2-model-type": transformers_case("dinov2", **shortest),
        "convnext": named("ConvNext", size={"shortest_edge": side}),
        "convnext-pct": named("ConvNext", size=side, crop_pct=0.9, resample=2),
        "dinov3": named("DINOv3ViT", **exact),
        "dinov3-fast": transformers_case(image_processor_type="DINOv3ViTImageProcessorFast", size=side, resample=3),
        "dinov3-crop": named("DINOv3ViT", do_center_crop=True, **shortest),
        "dinov3-pad": named("DINOv3ViT", do_center_crop=True, size=side, crop_size=[side + 5, side - 4]),
        "dinov3-bytes": named("DINOv3ViT", do_rescale=False, do_normalize=False, **exact),
    }
    square = {"input_size": [3, side, side]}
    tall = {"input_size": [3, side + 9, side]}
    timm = {
        "timm": timm_case(**square),
        "timm-flat": timm_case(flat=True, mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.9, interpolation="bilinear", **square),
        "timm-1.0": timm_case(crop_pct=1.0, **square),
        "timm-tall": timm_case(crop_pct=0.95, **tall),
        "timm-squash": timm_case(crop_pct=0.9, crop_mode="squash", **tall),
        "timm-squash-1": timm_case(crop_pct=1.0, crop_mode="squash", **square),
        "timm-border": timm_case(crop_pct=1.0, crop_mode="border", mean=OPENAI[0], std=OPENAI[1], **square),
        "timm-border-tall": timm_case(crop_pct=0.9, crop_mode="border", interpolation="lanczos", **tall),
    }
    clip = {
        "open_clip": open_clip_case(side),
        "open_clip-bilinear": open_clip_case(side, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3),
        "open_clip-tall": open_clip_case([side + 9, side], interpolation="bilinear"),
        "open_clip-squash": open_clip_case([side, side + 9], resize_mode="squash"),
        "open_clip-longest": open_clip_case(side, resize_mode="longest", fill_color=77),
        "open_clip-longest-tall": open_clip_case([side + 9, side], resize_mode="longest", interpolation="bilinear"),
    }
    return {**hf, **timm, **clip}


def write(files, folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def reference(files, image):
    """(tensor [C,H,W], rescale, mean, std) of an RGB image of Pillow's."""
    if "open_clip_config.json" in files:
        import open_clip.transform as oc

        cfg = oc.PreprocessCfg(**files["open_clip_config.json"]["preprocess_cfg"])
        if isinstance(cfg.size, list):
            cfg.size = tuple(cfg.size)
        return oc.image_transform_v2(cfg, is_train=False)(image).numpy(), 1 / 255, cfg.mean, cfg.std
    config = files.get("config.json", {})
    if "architecture" in config:
        import timm

        cfg, name = timm_config(config)
        # So that timm takes the size, whose config counts.
        size = {"img_size": tuple(cfg["input_size"][1:])} if "input_size" in cfg else {}
        model = timm.create_model(name, pretrained_cfg=dict(cfg), **size)
        data = timm.data.resolve_model_data_config(model)
        return timm.data.create_transform(**data)(image).numpy(), 1 / 255, data["mean"], data["std"]
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        write(files, folder)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, ValueError):
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
        tensor = processor(image, return_tensors="np" if processor.backend == "pil" else "pt").pixel_values
    tensor = np.asarray(tensor)[0]
    flat = lambda x: list(np.broadcast_to(np.asarray(x, dtype=np.float64), 3))
    mean, std = (flat(processor.image_mean), flat(processor.image_std)) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    return tensor.astype(np.float32), processor.rescale_factor if processor.do_rescale else 1.0, mean, std


def timm_config(config):
    """As timm reads a config.json: `pretrained_cfg`, or all of it in the older format."""
    config = dict(config)
    name = config.pop("architecture")
    return config.get("pretrained_cfg", config), name


def levels(tensor, rescale, mean, std):
    """The 8-bit levels, not rounded, that a tensor stands for."""
    mean, std = (np.asarray(x, dtype=np.float64)[:, None, None] for x in (mean, std))
    return (tensor.astype(np.float64) * std + mean) / rescale
