"""Makes architectures.json: what timm's names of Vision Transformers stand for.

Requirements: timm==1.0.31. No model is built and nothing is downloaded.

    python make_table.py            # rewrites architectures.json beside this file
    python make_table.py --check    # exits 1 when it differs

The arguments of a model are its class's `defaults`, overridden by `cfg` (num_classes; in_chans is
input_size[0]; img_size is input_size[1:] if fixed_input_size), overridden by the architecture's `args`.
`cfg` is the default tag's; the tags of an architecture differ in num_classes only, and the config.json
beside the weights has the number.
"""
import inspect
import json
import sys
from pathlib import Path

import timm
from timm.layers import LayerNorm, SwiGLUPacked, get_norm_layer
from timm.models import _builder, beit, deit, eva, get_deprecated_models, model_entrypoint, vision_transformer
from torch import nn

FILE = Path(__file__).with_name("architectures.json")
MODULES = {"vision_transformer": vision_transformer, "deit": deit, "eva": eva, "beit": beit}
# Every class, and the one whose constructor has its arguments.
CLASSES = {
    "VisionTransformer": vision_transformer.VisionTransformer,
    "VisionTransformerDistilled": vision_transformer.VisionTransformer,
    "Eva": eva.Eva,
    "Beit": beit.Beit,
}
# Arguments that matter in training or at the start of it only.
TRAINING = {
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init", "head_init_scale", "device", "dtype",
    "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords",
}
CFG = ("input_size", "fixed_input_size", "num_classes")
ACTIVATIONS = {None: "gelu", nn.GELU: "gelu", nn.SiLU: "silu"}


def plain(key, value):
    """An argument's value as JSON has it."""
    if key == "norm_layer" or key == "embed_norm_layer" and value:
        norm = get_norm_layer(value or LayerNorm)(1)
        bias = {"bias": False} if getattr(norm, "bias", None) is None else {}
        return {"type": type(norm).__name__, "eps": norm.eps} | bias
    if key == "act_layer":
        return ACTIVATIONS.get(value, value)
    if key == "attn_layer":
        value = vision_transformer.ATTN_LAYERS.get(value, value)
    if value is SwiGLUPacked:
        return "SwiGLUPacked"
    if isinstance(value, type):
        return value.__name__
    return list(value) if isinstance(value, tuple) else value


def shaping(cls, kwargs):
    """Those of the arguments that shape the model, in the constructor's order."""
    names = inspect.signature(CLASSES[cls].__init__).parameters
    return {key: plain(key, kwargs[key]) for key in names if key in kwargs and key not in TRAINING}


def defaults(cls):
    parameters = inspect.signature(CLASSES[cls].__init__).parameters.values()
    return shaping(cls, {p.name: p.default for p in parameters if p.default is not p.empty})


def describe(model_cls, variant, *_, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs):
    """Stands in for build_model_with_cfg, where entry functions end: does what it does before it builds."""
    cls = model_cls.__name__
    if cls not in CLASSES:
        return None
    cfg = _builder.resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay).to_dict()
    args = shaping(cls, kwargs)
    _builder._update_default_model_kwargs(cfg, kwargs, None)
    cfg = {key: plain(key, cfg[key]) for key in CFG}
    merged = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0]}
    if cfg["fixed_input_size"]:
        merged["img_size"] = cfg["input_size"][1:]
    assert merged | args == shaping(cls, kwargs), f"{variant}: timm makes more of the cfg than {CFG}"
    return {"class": cls, "args": args, "cfg": cfg}


def table():
    architectures, deprecated = {}, {}
    for name, module in MODULES.items():
        module.build_model_with_cfg = describe
        architectures |= {model: model_entrypoint(model)() for model in timm.list_models(module=name)}
        deprecated |= get_deprecated_models(name)
    architectures = {name: row for name, row in sorted(architectures.items()) if row}
    current = {old: new.split(".")[0] for old, new in sorted(deprecated.items()) if new}
    return {
        "timm": timm.__version__,
        "defaults": {cls: defaults(cls) for cls in CLASSES},
        "architectures": architectures,
        "deprecated": {old: new for old, new in current.items() if new in architectures},
    }


def text(value, levels, indent=""):
    """JSON in which the entries of that many levels of objects have a line each."""
    if not levels or not isinstance(value, dict):
        return json.dumps(value)
    inner = indent + "  "
    entries = (f"{inner}{json.dumps(key)}: {text(entry, levels - 1, inner)}" for key, entry in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


made = text(table(), 2) + "\n"
if sys.argv[1:] == ["--check"]:
    sys.exit(not FILE.exists() or FILE.read_text() != made)
FILE.write_text(made)
