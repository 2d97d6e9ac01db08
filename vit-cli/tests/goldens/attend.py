"""Writes attend.json: attention maps, rollout and PCA colours by PyTorch and NumPy, of the engine's golden models.

    pip install torch==2.15.0 transformers==5.24.0 numpy==2.4.6 pillow==13.0.0
    python attend.py
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

HERE = Path(__file__).resolve().parent
MODELS = HERE / "../../../vit-engine/tests/goldens"


def picture(width, height):
    """The picture of the tests."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 37 % 256, y * 53 % 256, (x ^ y) * 11 % 256], -1).astype(np.uint8)


def pixels(image):
    """12 × 12, mean 0.5, standard deviation 0.25."""
    small = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BILINEAR))
    return torch.from_numpy((small.astype(np.float32) / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]


def components(rows, count):
    """Principal components; in each the element of the largest magnitude is positive."""
    centred = rows - rows.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:count]
    largest = directions[np.arange(count), abs(directions).argmax(1)]
    return rows.mean(0), directions * np.sign(largest)[:, None]


def colours(patches, border):
    """DINOv2's way: a threshold on the first component, then three components of the foreground."""
    mean, first = components(patches, 1)
    scores = (patches - mean) @ first[0]
    foreground = scores * (-1 if scores[border].sum() > 0 else 1) > 0
    mean, three = components(patches[foreground], 3)
    projected = (patches[foreground] - mean) @ three.T
    low, high = projected.min(0), projected.max(0)  # of so few patches none is clipped
    rgb = iter(((projected - low) / (high - low)).tolist())
    return [next(rgb) if inside else None for inside in foreground]


@torch.no_grad()
def main():
    golden = {}
    load = dict(attn_implementation="eager")
    model = transformers.AutoModel.from_pretrained(MODELS / "dinov2-registers", **load).eval()
    wide, high = pixels(picture(60, 30)), pixels(picture(24, 60))
    results = model(wide, output_attentions=True)
    attention = torch.stack(results.attentions)[:, 0].double()  # [layers, heads, tokens, tokens]
    prefix = 1 + model.config.num_register_tokens
    golden["last"] = attention[-1].mean(0)[0, prefix:].tolist()
    golden["layer 1, head 2"] = attention[0, 1, 0, prefix:].tolist()
    rollout = torch.eye(attention.shape[-1]).double()
    for layer in attention.mean(1):
        mixed = layer + torch.eye(len(layer))
        rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
    golden["rollout"] = rollout[0, prefix:].tolist()
    golden["rollout from patch 5"] = rollout[prefix + 5, prefix:].tolist()
    states = [model(x).last_hidden_state[0, prefix:].double().numpy() for x in (wide, high)]
    border = np.tile(np.arange(9) != 4, 2)
    golden["colours"] = colours(np.concatenate(states), border)

    model = transformers.SiglipVisionModel.from_pretrained(MODELS / "siglip-vision", **load).eval()
    results = model(wide, output_attentions=True)
    tokens, head = results.last_hidden_state, model.head
    pool = head.attention(head.probe, tokens, tokens, need_weights=True, average_attn_weights=False)[1][0, :, 0]
    golden["pool"] = pool.mean(0).tolist()
    golden["pool, head 3"] = pool[2].tolist()
    row = pool.mean(0).double()
    for layer in reversed(results.attentions):
        mixed = layer[0].double().mean(0) + torch.eye(len(row))
        row = row @ (mixed / mixed.sum(-1, keepdim=True))
    golden["pool, rollout"] = row.tolist()
    (HERE / "attend.json").write_text(json.dumps(golden, indent=1) + "\n")


main()
