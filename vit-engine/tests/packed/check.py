#!/usr/bin/env python3
"""Reads packed files by their documentation alone, with `gguf` (the reader of llama.cpp's project) and numpy, and compares
every tensor with the checkpoint that the file was made of: f32 exactly, f16 and bf16 rounded to nearest even, int8 within
half a step, int4 within half a step or at the end of its range.

  check.py [CHECKPOINT PACKED]...     pairs of a timm checkpoint's folder and a packed file

Needs: pip install -r requirements.txt
"""
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

LANES = 16
# GGUF's names, and timm's for the same modules.
MODULES = {"attn_out": "attn.proj", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2", "attn_norm": "norm1", "ffn_norm": "norm2"}
MODULES |= {"attn_q_norm": "attn.q_norm", "attn_k_norm": "attn.k_norm"}
TOP = {"patch_embd": "patch_embed.proj", "final_norm": "norm", "head": "head"}
MATRICES = {"patch_embd", "attn_q", "attn_kv", "attn_out", "ffn_up", "ffn_down", "head"}


def wanted(name, tensors):
    """What a tensor of the file holds, from timm's tensors: [out, in], [rows, columns] or [len]."""
    if name in ("class_embd.weight", "position_embd.weight"):
        tensor = tensors["cls_token" if name.startswith("class") else "pos_embed"]
        return tensor.reshape(-1, tensor.shape[-1])
    *block, module, part = name.split(".")
    if not block:
        tensor = tensors[f"{TOP[module]}.{part}"]
        return tensor.reshape(len(tensor), -1) if tensor.ndim == 4 else tensor
    stem = f"blocks.{block[1]}"
    if module in ("attn_q", "attn_kv"):
        tensor = tensors[f"{stem}.attn.qkv.{part}"]  # queries, keys, values
        dim = len(tensor) // 3
        return tensor[:dim] if module == "attn_q" else tensor[dim:]
    return tensors[f"{stem}.{MODULES[module]}.{part}"]


def stored(tensor):
    """A tensor's elements, with their dimensions outermost first."""
    shape = [int(size) for size in reversed(tensor.shape)]
    numpy_type = {Type.F32: "<f4", Type.F16: "<f2", Type.BF16: "<u2", Type.I8: "i1", Type.I32: "<i4"}[tensor.tensor_type]
    return tensor.data.reshape(-1).view(numpy_type).reshape(shape)


def unpack(panels):
    """[n, k] of panels: [n/16][k][16], or [n/16][k/group][16][group]; n and k rounded up."""
    if panels.ndim == 2:  # one panel: the outermost 1 is not written
        panels = panels[None]
    if panels.ndim == 3 and panels.shape[2] == LANES:
        return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])
    if panels.ndim == 3:  # one panel of groups
        panels = panels[None]
    count, groups, lanes, group = panels.shape
    assert lanes == LANES, panels.shape
    return panels.transpose(0, 2, 1, 3).reshape(count * LANES, groups * group)


def bf16(values):
    """The upper halves of f32, rounded to nearest even."""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def nibbles(panels):
    """[n, k] of bytes [n/16][k/8][16][4], each with input i in its low nibble and input 4 + i in its high one."""
    panels = panels.reshape(-1, *panels.shape[-3:]).view("u1")  # one panel: the outermost 1 is not written
    both = np.stack([panels & 15, panels >> 4], axis=3)  # [n/16][k/8][16][2][4]
    signed = (both.astype("i1") ^ 8) - 8  # two's complement
    return signed.transpose(0, 2, 1, 3, 4).reshape(panels.shape[0] * LANES, -1)


def check_int4(name, tensors, want):
    """Scales are f16, [n/16][k/32][16]: the weight of largest magnitude of each output's 32 inputs / -8."""
    n, k = want.shape
    matrix, blocks = nibbles(stored(tensors[f"{name}.weight"])), -(-k // 32)
    assert not matrix[n:].any() and not matrix[:, k:].any(), f"{name}: what fills the panels up is not 0"
    scales = stored(tensors[f"{name}.scale"]).reshape(-1, blocks, LANES).transpose(0, 2, 1).reshape(-1, blocks)
    assert scales.dtype == "<f2" and not scales[n:].any(), f"{name}: scales"
    padded = np.zeros((n, blocks * 32), "<f4")
    padded[:, :k] = want
    groups = padded.reshape(n, blocks, 32)
    at = np.abs(groups).argmax(axis=2)[:, :, None]
    largest = np.take_along_axis(groups, at, axis=2)[:, :, 0]
    assert (scales[:n] == (largest / np.float32(-8)).astype("<f2")).all(), f"{name}: scales"
    steps = scales[:n].astype(np.float64)[:, :, None]
    q = np.zeros((n, blocks * 32))
    q[:, :k] = matrix[:n, :k]
    error = np.abs(q.reshape(groups.shape) * steps - groups)
    ends = (groups / np.where(steps == 0, 1, steps) > 7.5) & (q.reshape(groups.shape) == 7)
    assert (error <= np.where(ends, 1.01, 0.501) * np.abs(steps) + 2.0**-22).all(), f"{name}: more than half a step"
    return "int4"


def check_matrix(name, tensors, want, precision):
    if precision == "int4" and f"{name}.scale" in tensors:
        return check_int4(name, tensors, want)
    tensor, (n, k) = tensors[f"{name}.weight"], want.shape
    matrix, kind = unpack(stored(tensor)), tensor.tensor_type
    assert not matrix[n:].any() and not matrix[:, k:].any(), f"{name}: what fills the panels up is not 0"
    matrix = matrix[:n, :k]
    if kind == Type.I8:
        scales, sums = stored(tensors[f"{name}.scale"])[:n], stored(tensors[f"{name}.sum"])[:n]
        step = np.abs(want).max(axis=1) / np.float32(127)
        assert np.allclose(scales, step, rtol=1e-6, atol=0), f"{name}: scales"
        assert (sums == matrix.astype(np.int32).sum(axis=1)).all(), f"{name}: sums"
        error = np.abs(matrix * scales.astype(np.float64)[:, None] - want)
        assert (error <= 0.5 * step[:, None] * (1 + 1e-4)).all(), f"{name}: more than half a step"
    else:
        rounded = {Type.F32: lambda x: x, Type.F16: lambda x: x.astype("<f2"), Type.BF16: bf16}[kind](want)
        assert matrix.dtype == rounded.dtype and (matrix == rounded).all(), f"{name}: other weights"
    return kind.name


def check(checkpoint, path):
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    assert architecture == "vit", architecture
    precision = reader.get_field("vit.precision").contents()
    source = load_file(Path(checkpoint) / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kinds, seen = set(), 0
    for name, tensor in tensors.items():
        module, part = name.rsplit(".", 1)
        if part in ("scale", "sum"):
            assert f"{module}.weight" in tensors, name  # compared with their matrix
            continue
        want, seen = wanted(name, source), seen + 1
        if part == "weight" and module.rsplit(".", 1)[-1] in MATRICES:
            kinds.add(check_matrix(module, tensors, want, precision))
        else:
            assert tensor.tensor_type == Type.F32 and (stored(tensor).reshape(want.shape) == want).all(), name
    # Queries, keys and values are one tensor of timm's, two of the file's.
    assert seen == len(source) + sum(name.endswith("attn.qkv.weight") + name.endswith("attn.qkv.bias") for name in source)
    expected = {"f32": "F32", "f16": "F16", "bf16": "BF16", "int8": "I8", "int4": "int4"}[precision]
    assert expected in kinds, (precision, kinds)
    print(f"{Path(checkpoint).name} in {precision}: {seen} tensors are the checkpoint's")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or len(arguments) % 2:
        sys.exit(__doc__)
    for checkpoint, path in zip(arguments[::2], arguments[1::2]):
        check(checkpoint, path)
    print(f"{len(arguments) // 2} passed, 0 failed")
