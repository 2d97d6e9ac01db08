"""What the libraries share: random parameters and pixels, and writing a model's folder."""

import math
import re
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import checks

HERE = Path(__file__).resolve().parent
MIX = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_ATTENTION = 2000  # numbers; larger ones are only checked, not stored

TOKEN = re.compile(r"_token|class_embedding|probe|latent")
TABLE = re.compile(r"pos_embed|position_embedding|positional_embedding|bias_table|freqs")
QUERY_KEY = re.compile(r"qkv|in_proj|\.kv\.|[qk]_proj|query|key|attn_pool\.q\.")
OTHER_TOWER = re.compile(r"^text|text_|decoder|^positional_embedding|^transformer|^token_embedding")


def pair(size):
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


class Kind:
    """One model of one library. `image` and `patch` are [height, width].

    build() makes the model, save(model, folder) writes it as the library does, load(folder, size)
    reads it as the library does, for images of another size if one is given. run(model, pixels)
    returns the golden tensors, attention(model, pixels) the softmaxes [B,L,heads,T,T].
    """

    batch = 2
    sizes = ()  # other sizes to run one image at, [height, width]
    types = ()  # the types to store the weights as, in turn; (): as they are
    spread = 0.01  # of the nearly flat token (see `flatten`)
    unused = ""  # names of parameters without effect
    has_table = True  # of positions, which is resized for other sizes
    keys_count = False  # the bias of the keys has an effect (RoPE or normed keys come after it)
    kept = ""  # pattern of the tensors to store


def first(model, pattern, but="^$"):
    """The first parameter of the image tower whose name matches, or None."""
    named = ((n, p) for n, p in model.named_parameters() if not OTHER_TOWER.search(n))
    return next((p for n, p in named if re.search(pattern, n) and not re.search(but, n)), None)


def flatten(kind, model):
    """A token of little variance shows the epsilon of the first LayerNorm: the class token (or
    register) nearly cancels its position (the sum of the two is exact in f32), or is small if it
    has none; without such a token the first position cancels the bias of the patches."""
    table = first(model, TABLE.pattern, but="bias_table|freqs")
    token = first(model, "cls_token|class_embedding|reg_token")
    patch_norm, patch_bias = first(model, r"patch_embed\.norm"), first(model, "patch_embed.*bias")
    if token is None and patch_norm is not None:  # embeds the nearly flat patch of the pixels
        patch_bias.mul_(kind.spread)
    elif token is None:
        table.view(-1, table.shape[-1])[0] = kind.spread * torch.randn(table.shape[-1]) - patch_bias
    elif token.numel():  # vit-pytorch has one without numbers
        token = token.view(-1, token.shape[-1])[0]
        small = kind.spread * torch.randn(len(token))
        patches = math.prod(side // patch for side, patch in zip(kind.image, kind.patch))
        if table is not None and table.numel() > patches * len(token):
            table.view(-1, len(token))[0] = small - token
        else:
            token.copy_(small)


def randomise(kind, model):
    """Gives every parameter values that matter: none is 0, no scale is 1."""
    for name, p in model.named_parameters():
        if TOKEN.search(name) or TABLE.search(name):
            p.normal_(0, 0.5)
        elif name.endswith("bias"):
            p.normal_(0, 0.3).add_(0.02 * p.sign())
        elif p.ndim <= 1:  # norms and layer scales: 0.5 to 1.5, except 0.95 to 1.05
            p.copy_(1 + torch.empty_like(p).uniform_(0.05, 0.5) * torch.randn_like(p).sign())
            if re.search("[qk]_norm", name):
                p.mul_(1.5)
        else:  # the queries and keys are large enough for a lively softmax
            p.normal_(0, (1.5 if QUERY_KEY.search(name) else 1) / math.sqrt(p[0].numel()))
    flatten(kind, model)


def random_pixels(kind, size, batch):
    """Normally distributed, but one patch is nearly flat: it shows the epsilon of a
    LayerNorm that comes before the embedding."""
    pixels = torch.randn(batch, kind.channels, *size)
    pixels[-1, :, : kind.patch[0], : kind.patch[1]] *= 0.01
    return pixels


def round_weights(path, types):
    """Stores the tensors of a file as the types in turn."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = enumerate(sorted(load_file(path).items()))
    save_file({name: t.to(types[i % len(types)]) for i, (name, t) in tensors}, path, metadata)


@torch.no_grad()
def make(name, kind):
    """Writes the folder of a model, and checks that its numbers would show a mistake."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()

    torch.manual_seed(zlib.crc32(name.encode()))
    built = kind.build().eval()
    randomise(kind, built)
    kind.save(built, folder)
    pixels = random_pixels(kind, kind.image, kind.batch)
    others = {size: random_pixels(kind, size, 1) for size in kind.sizes}
    if kind.types:
        round_weights(next(folder.glob("*.safetensors")), kind.types)

    model = kind.load(folder)
    outputs = kind.run(model, pixels)
    golden = dict(pixels=pixels, **outputs)
    if not kind.types:
        checks.same(kind.run(built, pixels), outputs)
    attention = kind.attention(model, pixels)
    if attention.numel() <= LARGEST_ATTENTION:
        golden["attention"] = attention
    for (height, width), images in others.items():
        resized = kind.run(kind.load(folder, (height, width)), images)
        resized = {k: v for k, v in resized.items() if ":" not in k and k != "registers"}
        golden |= {f"{k}@{height}x{width}": v for k, v in dict(pixels=images, **resized).items()}
    golden = {k: v for k, v in golden.items() if re.search(kind.kept, k)}
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in golden.values())
    grid = [side // patch for side, patch in zip(kind.image, kind.patch)]
    assert golden["patches"].shape[1] == math.prod(grid)
    save_file({k: v.contiguous().clone() for k, v in golden.items()}, folder / "golden.safetensors")

    report = checks.check(kind, folder, model, pixels, outputs, attention, others)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1000
    print(f"{name:28}{size:7.1f} kB | {report}", flush=True)
