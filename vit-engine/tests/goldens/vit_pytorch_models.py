"""Models of vit-pytorch: one release per tensor layout (the README has the names and shapes).

The releases are fetched by pip into a temporary folder; only their `vit.py` is loaded, each
under a module name of its own."""

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import Kind, pair

LAYOUTS = {
    "old": "0.24.3",      # 0.10.1 to 0.40.2: PreNorm (`.fn`), patch embedding is one Linear
    "middle": "1.2.9",    # 1.0.0 to 1.2.9: as old, LayerNorms around the patch embedding
    "between": "1.15.7",  # 1.4.0 to 1.15.7: no `.fn`, final transformer.norm, head is one Linear
    "short": "1.16.0",    # 1.16.0 only: as between, but pool='mean' has no class token
    "new": "1.26.11",     # 1.16.1 to today: as short, class token and positions lose their first axis
}  # fmt: skip

VIT = dict(
    model_type="vit-pytorch", image_size=24, patch_size=6, channels=3, num_classes=7,
    dim=24, depth=2, heads=3, dim_head=10, mlp_dim=40, pool="cls",
)  # fmt: skip
IDENTITY = dict(heads=1, dim_head=24)  # heads = 1 and dim_head = dim: to_out is nn.Identity
RECTANGLE = dict(image_size=[24, 40], patch_size=[8, 10])

# name: (layout, overrides)
MODELS = {
    "vp-old-cls": ("old", dict(depth=3)),
    "vp-old-identity": ("old", IDENTITY),
    "vp-old-mean": ("old", dict(pool="mean")),
    "vp-old-rect": ("old", RECTANGLE),
    "vp-old-nine": ("old", dict(patch_size=8)),  # nine patches, each 8×8
    "vp-middle-cls": ("middle", {}),
    "vp-middle-mean": ("middle", dict(pool="mean")),
    "vp-between-cls": ("between", {}),
    "vp-between-mean": ("between", dict(pool="mean")),
    "vp-short-mean": ("short", dict(pool="mean")),
    "vp-new-cls": ("new", dict(depth=3)),
    "vp-new-identity": ("new", IDENTITY),
    "vp-new-mean": ("new", dict(pool="mean")),
    "vp-new-rect": ("new", RECTANGLE),
    "vp-new-gray": ("new", dict(channels=1)),
}


@cache
def library(layout):
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        package = f"vit-pytorch=={LAYOUTS[layout]}"
        subprocess.run([*pip, "--no-deps", "--no-compile", "--target", folder, package], check=True)
        source = Path(folder) / "vit_pytorch" / "vit.py"
        spec = importlib.util.spec_from_file_location(f"vit_pytorch_{layout}", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class VitPytorch(Kind):
    kept = "^(?!attention)"

    def __init__(self, layout, overrides):
        self.layout, self.config = layout, VIT | overrides
        self.image, self.patch = pair(self.config["image_size"]), pair(self.config["patch_size"])
        self.channels = self.config["channels"]
        self.has_class = self.config["pool"] == "cls" or layout in ("old", "middle", "between")

    def build(self):
        args = {k: v for k, v in self.config.items() if k != "model_type"}
        args |= dict(image_size=self.image, patch_size=self.patch)
        return library(self.layout).ViT(**args)

    def save(self, model, folder):
        (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    def load(self, folder, size=None):
        model = self.build().eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    def run(self, model, pixels):
        """The logits and the tokens that the transformer hands to the pooling."""
        found = []
        with model.transformer.register_forward_hook(lambda _, __, output: found.append(output)):
            logits = model(pixels)
        tokens = found[0]
        outputs = dict(logits=logits, patches=tokens[:, int(self.has_class) :])
        return outputs | ({"class": tokens[:, 0]} if self.has_class else {})

    def attention(self, model, pixels):
        layers = []

        def hook(_, __, qkv):
            q, k, _ = qkv.view(*qkv.shape[:2], 3, self.config["heads"], -1).permute(2, 0, 3, 1, 4)
            layers.append((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1))

        hooks = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith("qkv")]
        model(pixels)
        for hook in hooks:
            hook.remove()
        return torch.stack(layers, 1)


def kinds():
    return {name: VitPytorch(*entry) for name, entry in MODELS.items()}
