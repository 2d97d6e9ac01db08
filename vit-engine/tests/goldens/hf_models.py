"""Models of transformers, as `save_pretrained` writes them."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

from common import MIX, Kind, pair  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# Other sizes for a model of 16 pixels: smaller, larger, rectangle, and no multiple of the patch.
SIZES = ((12, 12), (20, 20), (12, 20), (22, 17))
LABELS = ("ImageClassification", "Teacher")

VIT = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=21,
    image_size=12, patch_size=4, num_labels=5,
)  # fmt: skip
LARGE = dict(image_size=16)
DINOV2 = {k: v for k, v in VIT.items() if k != "intermediate_size"} | dict(mlp_ratio=2)
DINOV3 = VIT | dict(num_register_tokens=2)
TOWER = {k: v for k, v in VIT.items() if k != "num_labels"}
TEXT = dict(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9,
    vocab_size=11, max_position_embeddings=6, projection_dim=7,
)  # fmt: skip
RELATIVE = dict(use_relative_position_bias=True)
SHARED = dict(use_shared_relative_position_bias=True)
ABSOLUTE = dict(use_absolute_position_embeddings=True)


def two_towers(labels=2, **vision):
    """A configuration with an image and a text tower."""
    return dict(vision_config=TOWER | vision, text_config=TEXT, projection_dim=7, num_labels=labels)


# name: (class, configuration, attributes of Kind and arguments of save_pretrained)
MODELS = {
    "vit-classes": ("ViTForImageClassification", VIT | LARGE, dict(sizes=SIZES)),
    "vit-pooler": ("ViTModel", VIT | dict(hidden_size=24, num_attention_heads=3), {}),
    "vit-no-qkv-bias": ("ViTForImageClassification", VIT | dict(qkv_bias=False, num_channels=1), {}),
    "vit-rect": ("ViTForImageClassification", VIT | dict(image_size=[12, 20], num_hidden_layers=3), {}),
    "vit-head-dim": ("ViTForImageClassification", VIT | dict(head_dim=5, num_labels=2), {}),
    "vit-gelu-new": ("ViTModel", VIT | dict(hidden_act="gelu_new"), {}),
    "vit-gelu-tanh": (
        "ViTForImageClassification",
        VIT | dict(hidden_act="gelu_pytorch_tanh", image_size=15, patch_size=5), {},
    ),  # fmt: skip
    "vit-new-names": ("ViTForImageClassification", VIT, dict(save_original_format=False)),
    "vit-sharded": (
        "ViTForImageClassification", VIT | dict(num_hidden_layers=3), dict(max_shard_size="12KB"),
    ),  # fmt: skip
    "vit_mae-pretraining": (
        "ViTMAEForPreTraining",
        VIT | dict(decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
                   decoder_intermediate_size=9, **LARGE),
        dict(sizes=SIZES, loader="ViTMAEModel"),
    ),  # fmt: skip
    "deit-classes": ("DeiTForImageClassification", VIT | dict(num_labels=3), {}),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", VIT | LARGE, dict(sizes=SIZES)),
    "deit-model": ("DeiTModel", VIT | dict(image_size=14, patch_size=7, hidden_size=20), {}),
    "dinov2-model": ("Dinov2Model", DINOV2 | LARGE, dict(sizes=SIZES)),
    "dinov2-classes": (
        "Dinov2ForImageClassification", DINOV2 | dict(hidden_size=18, num_attention_heads=3), {},
    ),  # fmt: skip
    "dinov2-swiglu": ("Dinov2ForImageClassification", DINOV2 | dict(use_swiglu_ffn=True), {}),
    "dinov2-registers": ("Dinov2WithRegistersModel", DINOV2 | dict(num_register_tokens=3), {}),
    "dinov2-registers-classes": (
        "Dinov2WithRegistersForImageClassification", DINOV2 | LARGE, dict(sizes=SIZES),
    ),  # fmt: skip
    "clip-model": ("CLIPModel", two_towers(**LARGE), dict(sizes=SIZES)),
    "clip-projection": (
        "CLIPVisionModelWithProjection",
        TOWER | LARGE | dict(projection_dim=9), dict(types=MIX, sizes=SIZES[2:]),
    ),  # fmt: skip
    "clip-vision": ("CLIPVisionModel", TOWER | dict(num_hidden_layers=3, image_size=18, patch_size=6), {}),
    "clip-classes": ("CLIPForImageClassification", two_towers(labels=4), {}),
    "clip-gelu": ("CLIPVisionModelWithProjection", TOWER | dict(projection_dim=9, hidden_act="gelu"), {}),
    "siglip-model": ("SiglipModel", two_towers(**LARGE), dict(sizes=SIZES)),
    "siglip-vision": ("SiglipVisionModel", TOWER | dict(hidden_size=24, num_attention_heads=3), {}),
    "siglip-no-head": ("SiglipVisionModel", TOWER | dict(vision_use_head=False), {}),
    "siglip-classes": ("SiglipForImageClassification", two_towers(labels=4), {}),
    "siglip-remainder": ("SiglipVisionModel", TOWER | dict(image_size=14), {}),
    "dinov3-plain": ("DINOv3ViTModel", DINOV3 | LARGE, dict(sizes=SIZES)),
    "dinov3-gated": (
        "DINOv3ViTModel", DINOV3 | LARGE | dict(use_gated_mlp=True, hidden_act="silu"), dict(sizes=SIZES[2:]),
    ),  # fmt: skip
    "dinov3-no-registers": ("DINOv3ViTModel", DINOV3 | dict(num_register_tokens=0, num_hidden_layers=3), {}),
    "dinov3-no-query-bias": ("DINOv3ViTModel", DINOV3 | dict(query_bias=False), {}),
    "dinov3-key-bias": ("DINOv3ViTModel", DINOV3 | dict(key_bias=True), dict(keys_count=True)),
    "dinov3-no-value-bias": ("DINOv3ViTModel", DINOV3 | dict(value_bias=False), {}),
    "dinov3-no-proj-bias": ("DINOv3ViTModel", DINOV3 | dict(proj_bias=False), {}),
    "dinov3-no-mlp-bias": ("DINOv3ViTModel", DINOV3 | dict(mlp_bias=False, image_size=[12, 20]), {}),
    "beit-relative": ("BeitModel", VIT | RELATIVE, {}),
    "beit-shared": ("BeitModel", VIT | SHARED, {}),
    "beit-both": ("BeitModel", VIT | RELATIVE | SHARED, {}),
    "beit-absolute": ("BeitModel", VIT | ABSOLUTE, {}),
    "beit-class-pool": ("BeitModel", VIT | RELATIVE | dict(use_mean_pooling=False, hidden_size=24), {}),
    "beit-no-layer-scale": ("BeitModel", VIT | RELATIVE | dict(layer_scale_init_value=0.0), {}),
    "beit-classes": ("BeitForImageClassification", VIT | RELATIVE | dict(image_size=18, patch_size=6), {}),
}


class HuggingFace(Kind):
    unused = r"mask_token|text_model|text_projection|logit_scale|logit_bias|^pooler\.dense"

    def __init__(self, name, config, options):
        options = dict(options)
        self.type = getattr(transformers, name)
        self.loader = getattr(transformers, options.pop("loader", name))
        self.config = config
        for key in ("sizes", "types", "keys_count"):
            setattr(self, key, options.pop(key, getattr(self, key)))
        self.save_arguments = options
        tower = config.get("vision_config", config)
        self.image, self.patch = pair(tower["image_size"]), pair(tower["patch_size"])
        self.channels = tower.get("num_channels", 3)
        self.family = self.type.config_class.model_type.split("_vision")[0]
        self.has_table = self.family != "dinov3_vit"
        if self.family in ("vit", "vit_mae", "deit", "beit"):  # an epsilon of 1e-12
            self.spread = 3e-5

    def build(self):
        return self.type._from_config(self.type.config_class(**self.config), attn_implementation="eager")

    def save(self, model, folder):
        model.save_pretrained(folder, **self.save_arguments)

    def load(self, folder, size=None):
        """The encoder of MAE keeps all patches; all in eager mode, which has the softmax."""
        options = dict(mask_ratio=0.0) if self.family == "vit_mae" else {}
        options |= dict(attn_implementation="eager", dtype=torch.float32)
        return self.loader.from_pretrained(folder, **options).eval()

    def arguments(self, pixels):
        """DINOv2, DINOv3 and BEiT adapt to other sizes unasked."""
        size = tuple(pixels.shape[2:])
        result = dict(pixel_values=pixels)
        if self.family in ("vit", "vit_mae", "deit", "clip", "siglip") and size != self.image:
            result["interpolate_pos_encoding"] = True
        if self.family == "vit_mae":  # the order of the patches is that of the noise
            patches = size[0] // self.patch[0] * (size[1] // self.patch[1])
            result["noise"] = torch.arange(patches).to(pixels).expand(len(pixels), -1)
        return result

    def tower(self, model):
        if self.family in ("clip", "siglip"):
            return getattr(model, "vision_model", model)
        return getattr(model, model.base_model_prefix, model) if self.family != "dinov3_vit" else model

    def run(self, model, pixels):
        if self.family == "vit_mae" and not isinstance(model, self.loader):
            model = self.encoder(model)
        arguments = self.arguments(pixels)
        tower = self.tower(model)
        results = tower(**arguments, output_hidden_states=True)
        tokens = results.last_hidden_state
        registers = getattr(tower.config, "num_register_tokens", 0)
        prefix = {"siglip": 0, "deit": 2}.get(self.family, 1 + registers)
        outputs = dict(patches=tokens[:, prefix:])
        if prefix:
            outputs["class"] = tokens[:, 0]
        if registers:
            outputs["registers"] = tokens[:, 1:prefix]
        if self.type.__name__.endswith(LABELS):
            outputs["logits"] = model(**arguments).logits
        embedding = self.embedding(model, arguments, results)
        if embedding is not None:
            outputs["embedding"] = embedding
        if getattr(tower, "head", None) is not None and hasattr(tower.head, "probe"):
            outputs["pool-attention"] = self.pool_attention(tower.head, tokens)
        return outputs | {f"layer:{i}": state for i, state in enumerate(results.hidden_states)}

    def pool_attention(self, head, tokens):
        """What the query of SigLIP's attention pool gives to each token, [B,heads,T]."""
        probe = head.probe.expand(len(tokens), -1, -1)
        return head.attention(probe, tokens, tokens, need_weights=True, average_attn_weights=False)[1][:, :, 0]

    def encoder(self, model):
        """What `load` reads of a model for pretraining."""
        encoder = self.loader(model.config).eval()
        encoder.load_state_dict(model.vit.state_dict())
        encoder.config.mask_ratio = 0.0
        return encoder

    def embedding(self, model, arguments, results):
        if self.family in ("vit", "vit_mae", "deit"):  # the pooler belongs to other tasks
            return results.last_hidden_state[:, 0]
        if hasattr(model, "get_image_features"):
            return model.get_image_features(**arguments).pooler_output
        if hasattr(model, "visual_projection"):
            return model(**arguments).image_embeds
        return results.pooler_output

    def attention(self, model, pixels):
        results = self.tower(model)(**self.arguments(pixels), output_attentions=True)
        return torch.stack(results.attentions, 1)


def kinds():
    return {name: HuggingFace(*entry) for name, entry in MODELS.items()}
