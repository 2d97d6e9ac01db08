#!/usr/bin/env python3
"""Trains fashion-vit, the model that the `vit` binary carries, and writes it next to this file.

    apt-get install dataset-fashion-mnist
    pip install torch safetensors numpy pillow
    python3 train.py                # trains, evaluates, writes everything below
    python3 train.py --export C.pt  # the same from a finished checkpoint, without training

Writes: model.safetensors, config.json, metrics.json, predictions.bin (one byte per test image: the class that
PyTorch predicts), samples/<class>-<index>.png (the first test image of each class).

The modules are those of the study notes the engine starts from (PreNorm, FeedForward, Attention, Transformer),
with their slips corrected: the scale is head_dim ** -0.5, and the attention output is computed before it is used.
"""
import argparse
import gzip
import json
import struct
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images
CONFIG = dict(image_size=28, patch_size=4, channels=1, num_classes=10, dim=64, depth=6, heads=4, dim_head=16, mlp_dim=128)


class PreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x):
        return self.fn(self.norm(x))


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x):
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, heads=8, dim_head=64, dropout=0.0):
        super().__init__()
        inner_dim = heads * dim_head
        project_out = not (heads == 1 and dim_head == dim)
        self.heads = heads
        self.scale = dim_head**-0.5
        self.attend = nn.Softmax(dim=-1)
        self.to_qkv = nn.Linear(dim, inner_dim * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(dropout)) if project_out else nn.Identity()

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (t.reshape(b, n, self.heads, -1).transpose(1, 2) for t in self.to_qkv(x).chunk(3, dim=-1))
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        out = torch.matmul(self.attend(dots), v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class Transformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head, mlp_dim, dropout=0.0):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(dim, Attention(dim, heads=heads, dim_head=dim_head, dropout=dropout)),
                    PreNorm(dim, FeedForward(dim, mlp_dim, dropout=dropout)),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x):
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return x


class Patches(nn.Module):
    """[B, C, H, W] -> [B, N, P*P*C]; a patch is flattened as (row, column, channel)."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // self.p, self.p, w // self.p, self.p)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, self.p * self.p * c)


class ViT(nn.Module):
    def __init__(self, *, image_size, patch_size, channels, num_classes, dim, depth, heads, dim_head, mlp_dim, dropout=0.0):
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.to_patch_embedding = nn.Sequential(Patches(patch_size), nn.Linear(patch_size**2 * channels, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, patches + 1, dim) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, img):
        x = self.to_patch_embedding(img)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        return self.mlp_head(self.transformer(x)[:, 0])


def read_idx(path):
    data = gzip.open(path).read()
    rank = data[3]
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(folder, part):
    images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").copy()).long()
    return images, labels


def normalise(images):
    return (images.unsqueeze(1).float() / 255 - MEAN) / STD


def augment(x, rng):
    """Per image: a horizontal flip with probability 1/2 and a shift of -2..2 pixels each way."""
    b, _, h, w = x.shape
    flip = torch.rand(b, 1, 1, 1, generator=rng) < 0.5
    x = torch.where(flip, x.flip(-1), x)
    x = F.pad(x, (2, 2, 2, 2), value=-MEAN / STD)
    rows = torch.randint(0, 5, (b, 1), generator=rng) + torch.arange(h)
    cols = torch.randint(0, 5, (b, 1), generator=rng) + torch.arange(w)
    return x[torch.arange(b)[:, None, None], 0, rows[:, :, None], cols[:, None, :]].unsqueeze(1)


@torch.no_grad()
def predict(model, x):
    model.eval()
    return torch.cat([model(part).argmax(1) for part in x.split(500)])


def train(args):
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    images, labels = load(args.data, "train")
    x, model = normalise(images), ViT(**CONFIG, dropout=args.dropout)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    steps = len(x) // args.batch
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps * args.epochs, pct_start=0.15)
    compiled = torch.compile(model)  # the same parameters, about 10 % faster steps
    start = time.time()
    for epoch in range(args.stop):
        model.train()
        total = 0.0
        for batch in torch.randperm(len(x), generator=rng)[: steps * args.batch].split(args.batch):
            loss = F.cross_entropy(compiled(augment(x[batch], rng)), labels[batch], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item()
        print(f"epoch {epoch + 1}/{args.epochs} loss {total / steps:.4f} {time.time() - start:.0f} s", flush=True)
        torch.save(average.module.state_dict(), args.checkpoint)


def export(args):
    torch.set_num_threads(1)
    model = ViT(**CONFIG)
    model.load_state_dict(torch.load(args.export or args.checkpoint))
    images, labels = load(args.data, "t10k")
    predicted = predict(model, normalise(images))
    parameters = sum(p.numel() for p in model.parameters())
    accuracy = (predicted == labels).float().mean().item()
    print(f"test accuracy {100 * accuracy:.2f} %, {parameters} parameters")

    save_file(model.state_dict(), HERE / "model.safetensors", metadata={"format": "pt"})
    preprocessing = dict(input_size=[1, 28, 28], interpolation="bicubic", crop_pct=1.0, crop_mode="squash", mean=[MEAN], std=[STD])
    config = dict(model_type="vit-pytorch", **CONFIG, pool="cls", layer_norm_eps=1e-5, hidden_act="gelu")
    config |= dict(pretrained_cfg=preprocessing | dict(label_names=LABELS))
    (HERE / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (HERE / "predictions.bin").write_bytes(bytes(predicted.to(torch.uint8).tolist()))
    correct = [int(((predicted == labels) & (labels == c)).sum()) for c in range(10)]
    metrics = dict(test_images=len(labels), correct=sum(correct), correct_per_class=dict(zip(LABELS, correct)))
    metrics |= dict(parameters=parameters, torch=torch.__version__)
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (HERE / "samples").mkdir(exist_ok=True)
    for c, name in enumerate(LABELS):
        i = int((labels == c).nonzero()[0])
        slug = name.lower().replace("/", "-").replace(" ", "-")
        Image.fromarray(images[i].numpy()).save(HERE / "samples" / f"{slug}-{i}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=48, help="what the one-cycle schedule is laid out for")
    parser.add_argument("--stop", type=int, default=33, help="end after this many of the epochs (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("fashion-vit.pt"))
    parser.add_argument("--export", type=Path, help="skip training: export this checkpoint")
    args = parser.parse_args()
    if not args.export:
        train(args)
    export(args)


if __name__ == "__main__":
    main()
