"""Makes the golden models: tiny Vision Transformers with random weights and what
the original libraries compute with them.

Requirements (what the stored files were made with, on Python 3.11, CPU):

    torch==2.15.0  timm==1.0.31  safetensors==0.8.0  numpy==2.4.6  einops==0.8.2

The vit-pytorch releases in LAYOUTS are fetched by pip into a temporary folder; only
their `vit.py` is loaded, each under a module name of its own.

    python make.py              # every model
    python make.py vp-old-cls   # only those named

Each model gets a folder `<name>/` beside this script:

    config.json         how to build the model
    model.safetensors   its state dict
    golden.safetensors  pixels, logits, class (if there is a class token), patches
"""

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import nn

HERE = Path(__file__).resolve().parent
BATCH = 2

# One release per tensor layout of vit-pytorch (the README has the names and shapes).
LAYOUTS = {
    "old": "0.24.3",      # 0.10.1 to 0.40.2: PreNorm (`.fn`), patch embedding is one Linear
    "middle": "1.2.9",    # 1.0.0 to 1.2.9: as old, LayerNorms around the patch embedding
    "between": "1.15.7",  # 1.4.0 to 1.15.7: no `.fn`, final transformer.norm, head is one Linear
    "short": "1.16.0",    # 1.16.0 only: as between, but pool='mean' has no class token
    "new": "1.26.11",     # 1.16.1 to today: as short, class token and positions lose their first axis
}

VIT_PYTORCH = dict(
    model_type="vit-pytorch", image_size=24, patch_size=6, channels=3, num_classes=7,
    dim=24, depth=2, heads=3, dim_head=10, mlp_dim=40, pool="cls",
)  # fmt: skip
IDENTITY = dict(heads=1, dim_head=24)  # heads = 1 and dim_head = dim: to_out is nn.Identity
RECTANGLE = dict(image_size=[24, 40], patch_size=[8, 10])
TIMM = dict(embed_dim=24, depth=2, num_heads=3, img_size=24, patch_size=8, num_classes=11)

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
    "timm-token": ("timm", {}),
    "timm-rect": ("timm", dict(img_size=(24, 40))),
    "timm-no-qkv-bias": ("timm", dict(qkv_bias=False)),
    "timm-avg": ("timm", dict(global_pool="avg")),
    "timm-mlp-ratio": ("timm", dict(mlp_ratio=3)),
    "timm-in-chans": ("timm", dict(in_chans=1)),
}


def pair(size):
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


class VitPytorch:
    """A vit-pytorch model of one layout."""

    def __init__(self, layout, overrides):
        self.layout, self.config = layout, VIT_PYTORCH | overrides
        self.image, self.patch = pair(self.config["image_size"]), pair(self.config["patch_size"])
        self.channels, self.heads = self.config["channels"], self.config["heads"]
        self.has_class = self.config["pool"] == "cls" or layout in ("old", "middle", "between")

    @staticmethod
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

    def build(self):
        args = {k: v for k, v in self.config.items() if k != "model_type"}
        args |= dict(image_size=self.image, patch_size=self.patch)
        return self.library(self.layout).ViT(**args)

    def save_config(self, model, path):
        path.write_text(json.dumps(self.config, indent=2) + "\n")

    def run(self, model, pixels):
        """The logits and the tokens that the transformer hands to the pooling."""
        tokens = []
        with model.transformer.register_forward_hook(lambda _, __, output: tokens.append(output)):
            return model(pixels), tokens[0]


class Timm:
    """A plain timm Vision Transformer."""

    has_class = True

    def __init__(self, _, overrides):
        self.args = TIMM | overrides
        self.image, self.patch = pair(self.args["img_size"]), pair(self.args["patch_size"])
        self.channels, self.heads = self.args.get("in_chans", 3), self.args["num_heads"]

    def build(self):
        return timm.create_model("vit_tiny_patch16_224", **self.args)

    def save_config(self, model, path):
        save_config_for_hf(model, path)

    def run(self, model, pixels):
        tokens = model.forward_features(pixels)
        return model.forward_head(tokens), tokens


def randomise(model):
    """Gives every parameter values that matter: none is 0, no scale is 1."""
    for name, p in model.named_parameters():
        if "cls_token" in name or "pos_embed" in name:
            p.normal_(0, 0.5)
        elif name.endswith("bias"):
            p.normal_(0, 0.3).add_(0.02 * p.sign())
        elif p.ndim == 1:  # LayerNorm: 0.5 to 1.5, except 0.95 to 1.05
            p.copy_(1 + torch.empty_like(p).uniform_(0.05, 0.5) * torch.randn_like(p).sign())
        else:  # the queries and keys are large enough for a lively softmax
            p.normal_(0, (1.5 if "qkv" in name else 1) / math.sqrt(p[0].numel()))
    # The class token and its position almost cancel: a token with a variance of 1e-4 shows
    # the epsilon of the first LayerNorm. (The difference is exact in f32: no rounding.)
    parameters = dict(model.named_parameters())
    token = parameters["cls_token"]
    if token.numel():
        position = parameters.get("pos_embedding", parameters.get("pos_embed"))
        position.view(-1, token.shape[-1])[0] = -token.flatten() + 0.01 * torch.randn(token.shape[-1])


def random_pixels(kind):
    """Normally distributed, but one patch is nearly flat: it shows the epsilon of a
    LayerNorm that comes before the embedding."""
    pixels = torch.randn(BATCH, kind.channels, *kind.image)
    pixels[-1, :, : kind.patch[0], : kind.patch[1]] *= 0.01
    return pixels


def change(reference, other):
    return ((other - reference).abs().max() / reference.abs().max()).item()


def check_parameters(kind, model, pixels, logits):
    """Zeroing any parameter changes the logits. Queries, keys and values are zeroed one by
    one. The bias of the keys alone has no effect: it adds the same score to every key of a
    query, and softmax does not see a constant."""
    least = math.inf
    for name, p in model.named_parameters():
        if not p.numel():  # the class token of a model without one
            continue
        for part, piece in enumerate(p.chunk(3) if "qkv" in name else [p]):
            kept = piece.clone()
            piece.zero_()
            effect = change(logits, kind.run(model, pixels)[0])
            piece.copy_(kept)
            if name.endswith("qkv.bias") and part == 1:
                assert effect < 1e-5, (name, "keys", effect)
            else:
                assert effect > 1e-3, (name, part, effect)
                least = min(least, effect)
    return least


def check_attention(kind, model, pixels):
    """The softmax is neither uniform nor a choice of one key: the entropy of its rows,
    as a share of the largest possible, averaged per layer."""
    found = []

    def entropy(_, __, qkv):
        q, k, _ = qkv.view(*qkv.shape[:2], 3, kind.heads, -1).permute(2, 0, 3, 1, 4)
        rows = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        found.append((torch.special.entr(rows).sum(-1).mean() / math.log(rows.shape[-1])).item())

    hooks = [m.register_forward_hook(entropy) for n, m in model.named_modules() if n.endswith("qkv")]
    kind.run(model, pixels)
    for hook in hooks:
        hook.remove()
    assert all(0.2 < share < 0.85 for share in found), found
    return found


def check_sensitivity(kind, state, pixels, logits, tokens):
    """How far the f32 results are from f64, and how far a wrong epsilon or GELU takes them."""

    def effect(alter, only):
        model = kind.build().eval()
        model.load_state_dict(state)
        for module in model.modules():
            if isinstance(module, only):
                alter(module)
        results = kind.run(model, pixels.to(next(model.parameters()).dtype))
        return max(map(change, (logits, tokens), results))

    rounding = effect(nn.Module.double, nn.Module)
    epsilon = min(effect(lambda m: setattr(m, "eps", m.eps * by), nn.LayerNorm) for by in (10, 0.1))
    tanh = effect(lambda m: setattr(m, "approximate", "tanh"), nn.GELU)
    assert rounding < 5e-6 and epsilon > 1e-3 and tanh > 5e-5, (rounding, epsilon, tanh)
    return rounding, epsilon, tanh


@torch.no_grad()
def make(name):
    layout, overrides = MODELS[name]
    kind = (Timm if layout == "timm" else VitPytorch)(layout, overrides)
    folder = HERE / name
    folder.mkdir(exist_ok=True)

    torch.manual_seed(zlib.crc32(name.encode()))
    model = kind.build().eval()
    randomise(model)
    pixels = random_pixels(kind)
    logits, tokens = kind.run(model, pixels)
    assert torch.equal(model(pixels), logits)
    golden = dict(pixels=pixels, logits=logits, patches=tokens[:, int(kind.has_class) :])
    if kind.has_class:
        golden["class"] = tokens[:, 0]
    grid = [side // patch for side, patch in zip(kind.image, kind.patch)]
    assert golden["patches"].shape[1] == math.prod(grid)

    kind.save_config(model, folder / "config.json")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")

    state, stored = load_file(folder / "model.safetensors"), load_file(folder / "golden.safetensors")
    assert all(t.dtype == torch.float32 for t in [*state.values(), *stored.values()])
    again = kind.build().eval()
    again.load_state_dict(state)
    for result, expected in zip(kind.run(again, stored["pixels"]), (logits, tokens)):
        assert torch.equal(result, expected)
    assert all(torch.equal(stored[k], v) for k, v in golden.items())

    least = check_parameters(kind, model, pixels, logits)
    entropies = check_attention(kind, model, pixels)
    rounding, epsilon, tanh = check_sensitivity(kind, state, pixels, logits, tokens)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1000
    assert size < 120, size
    entropy = f"{min(entropies):.2f}-{max(entropies):.2f}"
    print(
        f"{name:18}{size:6.1f} kB | least effect {least:.0e} | entropy {entropy}"
        f" | f64 {rounding:.0e} | eps {epsilon:.0e} | tanh {tanh:.0e}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make(name)
