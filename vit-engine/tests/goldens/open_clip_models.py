"""Models of open_clip, as its own `save_for_hf` writes them."""

import json
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf

import timm_models
from common import Kind, pair

logging.getLogger().setLevel(logging.ERROR)

# Other sizes for a model of 16 pixels: smaller, larger, rectangle.
SIZES = ((12, 12), (20, 20), (12, 20))
TEXT = dict(context_length=5, vocab_size=11, width=8, heads=2, layers=1)
VISION = dict(image_size=16, layers=2, width=16, head_width=8, patch_size=4, mlp_ratio=1.4)
CLIPA = dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True)
# open_clip takes the size of a trunk from its name: of all names in timm, test_vit has the smallest files.
TRUNK = dict(image_size=160, timm_model_name="test_vit", timm_model_pretrained=False)
TRUNK_OPTIONS = dict(types=(torch.float16,), batch=1, sizes=((32, 48),), kept="^(?!layer)")

# name: (overrides of vision_cfg, other keys of model_cfg, attributes of Kind)
MODELS = {
    "open_clip-native": ({}, {}, dict(sizes=SIZES)),
    "open_clip-quickgelu": (dict(layers=3, image_size=12), dict(quick_gelu=True), {}),
    "open_clip-layer-scale": (dict(ls_init_value=0.1, image_size=[12, 20]), {}, {}),
    "open_clip-clipa": (CLIPA | dict(image_size=12), dict(custom_text=True), {}),
    "open_clip-timm-linear": (dict(timm_pool="", timm_proj="linear"), dict(custom_text=True), TRUNK_OPTIONS),
    "open_clip-timm-map": (
        dict(timm_pool="map", timm_proj="none"), dict(embed_dim=64, custom_text=True), TRUNK_OPTIONS,
    ),  # fmt: skip
}


class OpenClip(Kind):
    unused = r"^(?!visual\.)"  # the text tower and the scale of the logits

    def __init__(self, vision, others, options):
        self.trunk = "timm_pool" in vision
        self.vision = (TRUNK if self.trunk else VISION) | vision
        self.config = dict(embed_dim=9, vision_cfg=self.vision, text_cfg=TEXT) | others
        self.image, self.patch = pair(self.vision["image_size"]), pair(self.vision.get("patch_size", 16))
        self.channels = 3
        for key, value in options.items():
            setattr(self, key, value)

    def build(self):
        with tempfile.TemporaryDirectory() as folder:
            config = dict(model_cfg=self.config, preprocess_cfg={})
            (Path(folder) / "open_clip_config.json").write_text(json.dumps(config))
            return open_clip.create_model(f"local-dir:{folder}", load_weights=False)

    def save(self, model, folder):
        no_tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
        save_for_hf(model, no_tokenizer, self.config, folder, safe_serialization=True)

    def load(self, folder, size=None):
        return open_clip.create_model(f"local-dir:{folder}", force_image_size=size).eval()

    def run(self, model, pixels):
        """The native tokens are those after the last block, before ln_post."""
        if self.trunk:
            outputs = timm_models.features(model.visual.trunk, pixels)[1]
            return outputs | dict(embedding=model.encode_image(pixels))
        layers, blocks = [], model.visual.transformer.resblocks
        hooks = [blocks[0].register_forward_pre_hook(lambda _, inputs: layers.append(inputs[0]))]
        hooks += [b.register_forward_hook(lambda _, __, output: layers.append(output)) for b in blocks]
        outputs = dict(embedding=model.encode_image(pixels))
        for hook in hooks:
            hook.remove()
        outputs |= {"class": layers[-1][:, 0], "patches": layers[-1][:, 1:]}
        return outputs | {f"layer:{i}": layer for i, layer in enumerate(layers)}

    def attention(self, model, pixels):
        if self.trunk:
            return timm_models.attention(model.visual.trunk, pixels)
        layers, hooks = [], []
        for block in model.visual.transformer.resblocks:
            def hook(_, __, y, attention=block.attn):
                layers.append(attention(y, y, y, need_weights=True, average_attn_weights=False)[1])
            hooks.append(block.ln_1.register_forward_hook(hook))
        model.encode_image(pixels)
        for hook in hooks:
            hook.remove()
        return torch.stack(layers, 1)


def kinds():
    return {name: OpenClip(*entry) for name, entry in MODELS.items()}
