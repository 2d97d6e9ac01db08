"""Makes one of timm's models with seeded random weights, in all the formats that the engines read.

    python prepare.py vit_tiny_patch16_224 FOLDER

FOLDER appears only when it is complete:

    config.json, model.safetensors         as timm writes them to a hub
    hf/config.json, hf/model.safetensors   with the names of Hugging Face's transformers, as candle reads them
    model.onnx                             opset 17, batch 1, fixed shapes
    pixels.npy                             [1, 3, 224, 224]: the input of every run
    logits.npy, patches.npy                PyTorch's outputs: [1, 1000], and [1, 196, dim] after the final norm
    about.json                             the versions used, and the model's multiply-accumulates
"""

import hashlib
import json
import math
import shutil
import sys
from pathlib import Path

SEED = 1
OPSET = 17


def recipe(script=__file__):
    """A hash of a script: models made by another version of it are made again."""
    return hashlib.sha256(Path(script).read_bytes()).hexdigest()[:16]


def about(folder):
    """The about.json of the model in this folder; None if the model must be made."""
    try:
        found = json.loads((folder / "about.json").read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("recipe") == recipe() else None


def randomise(model):
    """Sets weights that keep activations near 1 and attention far from uniform, so that every parameter affects the
    logits."""
    import torch

    for name, p in model.named_parameters():
        if name in ("cls_token", "pos_embed"):
            p.normal_(0, 0.5)
        elif name.endswith("bias"):
            p.normal_(0, 0.1)
        elif p.ndim == 1:  # LayerNorm
            p.uniform_(0.8, 1.2)
        else:
            p.normal_(0, (1.5 if "qkv" in name else 1) / math.sqrt(p[0].numel()))


def macs(model):
    """Multiply-accumulates of all matrix products over all tokens, and of the head over one."""
    dim, depth, tokens = model.embed_dim, len(model.blocks), model.pos_embed.shape[1]
    patch_len = model.patch_embed.proj.weight[0].numel()
    hidden = model.blocks[0].mlp.fc1.out_features
    layer = tokens * dim * (4 * dim + 2 * tokens + 2 * hidden)
    return (tokens - 1) * patch_len * dim + depth * layer + dim * model.num_classes


def hugging_face(model):
    """Config and weights with the names of Hugging Face's transformers, and separate queries, keys and values."""
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "intermediate_size": model.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm.eps,
        "image_size": model.patch_embed.img_size[0],
        "patch_size": model.patch_embed.patch_size[0],
        "num_channels": model.patch_embed.proj.in_channels,
        "num_labels": model.num_classes,
        "qkv_bias": True,
    }
    prefixes = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    in_layer = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for i in range(len(model.blocks)):
        prefixes |= {f"blocks.{i}.{ours}": f"vit.encoder.layer.{i}.{theirs}" for ours, theirs in in_layer.items()}
    tensors = {}
    for name, tensor in model.state_dict().items():
        prefix, dot, part = name.rpartition(".") if name.endswith(("weight", "bias")) else (name, "", "")
        if prefix.endswith("attn.qkv"):
            layer = prefix.split(".")[1]
            for which, piece in zip(("query", "key", "value"), tensor.chunk(3)):
                tensors[f"vit.encoder.layer.{layer}.attention.attention.{which}.{part}"] = piece.clone()
        else:
            tensors[prefixes[prefix] + dot + part] = tensor
    return config, tensors


def prepare(architecture, folder):
    import numpy as np
    import onnx
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models._hub import save_config_for_hf

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    with torch.inference_mode():
        model = timm.create_model(architecture).eval()
        randomise(model)
        pixels = torch.randn(1, 3, 224, 224)
        tokens = model.forward_features(pixels)
        outputs = {"pixels": pixels, "logits": model.forward_head(tokens), "patches": tokens[:, 1:]}

    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    (making / "hf").mkdir(parents=True)
    for name, tensor in outputs.items():
        np.save(making / f"{name}.npy", tensor.numpy())
    save_config_for_hf(model, making / "config.json")
    save_file(model.state_dict(), making / "model.safetensors")
    config, tensors = hugging_face(model)
    (making / "hf" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, making / "hf" / "model.safetensors")
    path = making / "model.onnx"
    torch.onnx.export(
        model,
        (pixels.clone(),),
        path,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        input_names=["pixels"],
        output_names=["logits"],
        verbose=False,
    )
    made = onnx.load(path)
    onnx.checker.check_model(made)
    opset = {entry.domain: entry.version for entry in made.opset_import}
    if opset.get("") != OPSET:
        raise SystemExit(f"the exporter wrote opset {opset} instead of {OPSET}")
    facts = {
        "recipe": recipe(),
        "architecture": architecture,
        "seed": SEED,
        "macs": macs(model),
        "made_with": {"torch": torch.__version__, "timm": timm.__version__, "onnx": onnx.__version__},
    }
    (making / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: prepare.py ARCHITECTURE FOLDER")
    prepare(sys.argv[1], Path(sys.argv[2]))
