"""Models of timm, as its own `save_for_hf` writes them."""

import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from common import MIX, Kind, pair

# Other sizes for a model of 16 pixels: smaller, larger, rectangle.
SIZES = ((12, 12), (20, 20), (12, 20))

TINY = dict(embed_dim=24, depth=2, num_heads=3, img_size=24, patch_size=8, num_classes=11)
SMALL = dict(embed_dim=16, depth=2, num_heads=2, img_size=12, patch_size=4, num_classes=5, mlp_ratio=1.4)
LARGE = SMALL | dict(img_size=16)
PLAIN = "vit_tiny_patch16_224"
AVERAGE = dict(global_pool="avg")

# name: overrides of vit_tiny_patch16_224; their golden files have the logits and the tokens only.
BASIC = {
    "timm-token": {},
    "timm-rect": dict(img_size=(24, 40)),
    "timm-no-qkv-bias": dict(qkv_bias=False),
    "timm-avg": AVERAGE,
    "timm-mlp-ratio": dict(mlp_ratio=3),
    "timm-in-chans": dict(in_chans=1),
}

# name: (architecture, overrides, attributes of Kind)
MODELS = {
    "timm-no-head": (PLAIN, LARGE | dict(num_classes=0), dict(sizes=SIZES)),
    "timm-mixed": (PLAIN, SMALL | dict(num_classes=3), dict(types=MIX)),
    "timm-distilled": ("deit_tiny_distilled_patch16_224", LARGE, dict(sizes=SIZES[2:])),
    "timm-deit3": ("deit3_small_patch16_224", LARGE, dict(sizes=SIZES[2:])),
    "timm-layer-scale": (PLAIN, SMALL | dict(init_values=0.1, embed_dim=18, num_heads=3), {}),
    "timm-reg4-dinov2": ("vit_small_patch14_reg4_dinov2", LARGE, dict(sizes=SIZES)),
    "timm-giant-dinov2": ("vit_giant_patch14_dinov2", SMALL | dict(mlp_ratio=2.875), {}),
    "timm-giant-reg4-dinov2": (
        "vit_giant_patch14_reg4_dinov2", SMALL | dict(num_classes=0, mlp_ratio=2.625), {},
    ),  # fmt: skip
    "timm-clip": ("vit_base_patch16_clip_224", LARGE, dict(sizes=SIZES[2:])),
    "timm-clip-quickgelu": ("vit_base_patch16_clip_quickgelu_224", SMALL, {}),
    # The position table is resampled in the file's precision.
    "timm-half": (PLAIN, LARGE, dict(types=(torch.float16,), sizes=SIZES)),
    "timm-siglip": ("vit_base_patch16_siglip_224", LARGE, dict(sizes=SIZES)),
    "timm-siglip-tanh": ("vit_base_patch32_siglip_256", SMALL | dict(num_classes=0), {}),
    "timm-siglip-remainder": ("vit_base_patch16_siglip_224", SMALL | dict(img_size=14, depth=1), {}),
    "timm-siglip-gap": (
        "vit_base_patch16_siglip_gap_224", LARGE | dict(num_classes=0), dict(sizes=SIZES[2:]),
    ),  # fmt: skip
    "timm-reg4-map": ("vit_so150m_patch16_reg4_map_256", SMALL, {}),
    "timm-reg-gap": ("vit_medium_patch16_reg4_gap_256", LARGE | dict(reg_tokens=3), dict(sizes=SIZES[2:])),
    "timm-qk-norm": (PLAIN, SMALL | dict(qk_norm=True), dict(keys_count=True, unused=r"k_norm\.bias")),
    "timm-no-class": (PLAIN, LARGE | AVERAGE | dict(class_token=False), dict(sizes=SIZES[2:])),
    "timm-avg-no-fc-norm": (PLAIN, SMALL | AVERAGE | dict(fc_norm=False), {}),
    "timm-avgmax": (PLAIN, SMALL | dict(global_pool="avgmax"), {}),
    "timm-max": (PLAIN, SMALL | dict(global_pool="max"), {}),
    "timm-no-norm": (PLAIN, SMALL | dict(final_norm=False), {}),
    "timm-embed-norm": (PLAIN, SMALL | dict(embed_norm_layer="layernorm"), {}),
    "timm-beit3": ("beit3_base_patch16_224", SMALL, {}),
    "timm-swiglu": (
        "aimv2_large_patch14_224", SMALL | dict(norm_layer="layernorm", embed_norm_layer="layernorm"), {},
    ),  # fmt: skip
    "timm-no-proj-bias": (PLAIN, SMALL | dict(proj_bias=False), {}),
    "timm-no-positions": (PLAIN, LARGE | dict(pos_embed="none"), dict(sizes=SIZES[2:], has_table=False)),
    "timm-no-embed-class": (PLAIN, LARGE | dict(no_embed_class=True), dict(sizes=SIZES[2:])),
    "timm-dynamic": (PLAIN, LARGE | dict(dynamic_img_size=True), dict(sizes=SIZES)),
    "timm-patch6": (PLAIN, SMALL | dict(img_size=(18, 24), patch_size=6, depth=3), dict(sizes=((18, 18),))),
    "eva02-tiny": ("eva02_tiny_patch14_224", LARGE | dict(mlp_ratio=4 / 3), dict(sizes=SIZES)),
    "eva02-base": ("eva02_base_patch14_224", LARGE | dict(mlp_ratio=4 / 3), dict(sizes=SIZES[2:])),
    "eva02-clip": ("eva02_base_patch16_clip_224", LARGE | dict(mlp_ratio=4 / 3), dict(sizes=SIZES[2:])),
    "eva02-no-head": ("eva02_tiny_patch14_224", SMALL | dict(num_classes=0), {}),
    "eva-giant": ("eva_giant_patch14_224", SMALL, {}),
    "timm-dinov3": ("vit_small_patch16_dinov3", LARGE, dict(sizes=SIZES, has_table=False)),
    "timm-dinov3-qkvb": ("vit_small_patch16_dinov3_qkvb", SMALL | dict(num_classes=0), dict(has_table=False)),
    "timm-dinov3-plus": (
        "vit_small_plus_patch16_dinov3_qkvb", LARGE, dict(sizes=SIZES[2:], has_table=False),
    ),  # fmt: skip
    "timm-beit": ("beit_base_patch16_224", SMALL, {}),
    "timm-beit-both": ("beit_base_patch16_224", SMALL | dict(use_shared_rel_pos_bias=True), {}),
    "timm-beitv2": ("beitv2_base_patch16_224", SMALL | dict(num_classes=0), {}),
}


class Timm(Kind):
    def __init__(self, architecture, overrides, options):
        self.architecture, self.overrides = architecture, overrides
        self.image, self.patch = pair(overrides["img_size"]), pair(overrides["patch_size"])
        self.channels = overrides.get("in_chans", 3)
        for key, value in options.items():
            setattr(self, key, value)

    def build(self):
        return timm.create_model(self.architecture, **self.overrides)

    def save(self, model, folder):
        save_config_for_hf(model, folder / "config.json")
        tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    def load(self, folder, size=None):
        size = dict(img_size=size) if size and not self.overrides.get("dynamic_img_size") else {}
        return timm.create_model(f"local-dir:{folder}", pretrained=True, **size).eval()

    def run(self, model, pixels):
        tokens, outputs = features(model, pixels)
        outputs["embedding"] = model.forward_head(tokens, pre_logits=True)
        if model.num_classes:
            outputs["logits"] = model.forward_head(tokens)
        return outputs

    def attention(self, model, pixels):
        return attention(model, pixels)


def features(model, pixels):
    """The tokens, and the golden tensors without those of the head."""
    layers = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, inputs: layers.append(inputs[0]))]
    hooks += [b.register_forward_hook(lambda _, __, output: layers.append(output)) for b in model.blocks]
    tokens = model.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    prefix = model.num_prefix_tokens
    outputs = dict(patches=tokens[:, prefix:])
    if getattr(model, "attn_pool", None) is not None:
        outputs["pool-attention"] = pool_attention(model, tokens)
    if getattr(model, "cls_token", None) is not None:
        outputs["class"] = tokens[:, 0]
    if getattr(model, "reg_token", None) is not None:
        outputs["registers"] = tokens[:, prefix - model.reg_token.shape[1] : prefix]
    return tokens, outputs | {f"layer:{i}": layer for i, layer in enumerate(layers)}


def pool_attention(model, tokens):
    """What the query of the attention pool gives to each token that it attends to, [B,heads,T]."""
    pool = model.attn_pool
    if not model.pool_include_prefix:
        tokens = tokens[:, model.num_prefix_tokens :]
    keys = pool.kv(tokens).unflatten(-1, (2, pool.num_heads, pool.head_dim))[:, :, 0]
    query = pool.q(pool.latent).unflatten(-1, (pool.num_heads, pool.head_dim))[0, 0]
    keys, query = pool.k_norm(keys), pool.q_norm(query)
    return torch.einsum("hd,bthd->bht", query * pool.scale, keys).softmax(-1)


def attention(model, pixels):
    """What the dropout of the attention sees, without fused attention."""
    layers, hooks = [], []
    for block in model.blocks:
        dropout = block.attn.attn_drop
        hooks.append(dropout.register_forward_hook(lambda _, __, output: layers.append(output)))
        block.attn.fused_attn = False
    model.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    return torch.stack(layers, 1)


def kinds():
    kept = "^(pixels|logits|class|patches)$"
    basic = {name: Timm(PLAIN, TINY | overrides, dict(kept=kept)) for name, overrides in BASIC.items()}
    return basic | {name: Timm(*entry) for name, entry in MODELS.items()}
