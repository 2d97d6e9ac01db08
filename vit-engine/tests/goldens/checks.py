"""Would the golden numbers show a mistake? And do they hide none of their own?"""

import math
import re
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATION = re.compile(r"GELU|SiLU")
ACTIVATIONS = {
    "erf": F.gelu,
    "tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
}
KEY_BIAS = re.compile(r"(key|k_proj)\.bias$|bias\[k\]$")


class Activation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def change(reference, other):
    return ((other - reference).abs().max() / reference.abs().max()).item()


def changes(reference, other):
    """The largest change of any output, relative to its largest value."""
    return max(change(reference[key], other[key]) for key in reference)


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def pieces(name, p):
    """Fused queries, keys and values one by one."""
    if re.search(r"qkv|in_proj", name):
        return zip((f"{name}[{part}]" for part in "qkv"), p.chunk(3))
    if ".kv." in name:
        return zip((f"{name}[{part}]" for part in "kv"), p.chunk(2))
    return [(name, p)]


def check_parameters(kind, model, pixels, outputs):
    """Zeroing any parameter changes an output, except those that the library ignores, and
    the bias of the keys: it adds the same score to every key of a query, and softmax does
    not see a constant. Returns the least effect and the names without one."""
    least, unused = math.inf, []
    for whole, parameter in model.named_parameters():
        if not parameter.numel():  # the class token or registers of a model without them
            continue
        for name, piece in pieces(whole, parameter):
            kept = piece.clone()
            piece.zero_()
            effect = changes(outputs, kind.run(model, pixels))
            piece.copy_(kept)
            if kind.unused and re.search(kind.unused, name) or KEY_BIAS.search(name) and not kind.keys_count:
                assert effect < 1e-5, (name, effect)
                unused.append(name)
            else:
                assert effect > 1e-3, (name, effect)
                least = min(least, effect)
    return least, unused


def check_attention(attention):
    """The softmax is neither uniform nor a choice of one key: the entropy of its rows,
    as a share of the largest possible, averaged per layer."""
    assert (attention.sum(-1) - 1).abs().max() < 1e-5
    shares = torch.special.entr(attention).sum(-1).mean((0, 2, 3)) / math.log(attention.shape[-1])
    assert all(0.2 < share < 0.95 for share in shares), shares
    return f"{shares.min():.2f}-{shares.max():.2f}"


def check_epsilon(kind, folder, pixels, outputs):
    def effect(factor):
        model = kind.load(folder)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps *= factor
        return changes(outputs, kind.run(model, pixels))

    least = min(effect(10), effect(0.1))
    assert least > 5e-5, least
    return least


def check_activation(kind, folder, pixels, outputs):
    """Any other activation function in all places. None if there is none to exchange."""
    effects = []
    x = torch.linspace(-3, 3, 61)
    for function in ACTIVATIONS.values():
        model, right = kind.load(folder), True
        for module in list(model.modules()):
            for name, child in module.named_children():
                if ACTIVATION.search(type(child).__name__) and not list(child.children()):
                    right = right and torch.allclose(child(x), function(x), atol=1e-5)
                    setattr(module, name, Activation(function))
        if not right:
            effects.append(changes(outputs, kind.run(model, pixels)))
    assert all(effect > 5e-5 for effect in effects), effects
    return min(effects, default=None)


@contextmanager
def other_filter():
    """Swaps antialiased and plain interpolation."""
    original = F.interpolate

    def swapped(*args, antialias=False, **kwargs):
        return original(*args, antialias=not antialias, **kwargs)

    F.interpolate = swapped
    try:
        yield
    finally:
        F.interpolate = original


def check_filter(kind, folder, others):
    """The wrong filter for the position table shows at other sizes. 0: there is no table."""
    effects = []
    for size, pixels in others.items():
        right = kind.run(kind.load(folder, size), pixels)
        with other_filter():
            wrong = kind.run(kind.load(folder, size), pixels)
        effects.append(changes(right, wrong))
    least = min(effects)
    assert least > 1e-3 or not kind.has_table, effects
    return least


def check(kind, folder, model, pixels, outputs, attention, others):
    """All checks; returns a line for the table."""
    least, unused = check_parameters(kind, model, pixels, outputs)
    rounding = changes(outputs, kind.run(kind.load(folder).double(), pixels.double()))
    assert rounding < 5e-6, rounding
    epsilon = check_epsilon(kind, folder, pixels, outputs)
    activation = check_activation(kind, folder, pixels, outputs)
    line = f"least {least:.0e} | entropy {check_attention(attention)} | f64 {rounding:.0e}"
    line += f" | eps {epsilon:.0e}"
    line += f" | act {activation:.0e}" if activation else " | act -    "
    line += f" | filter {check_filter(kind, folder, others):.0e}" if others else " | filter -    "
    other = [name for name in unused if not KEY_BIAS.search(name)]
    return line + f" | unused {len(unused)}" + (f", e.g. {other[0]}" if other else "")
