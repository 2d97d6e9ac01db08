"""Makes the seeds: golden models shrunk to a few kilobytes, packed ones too, the goldens' configs, a few shapes."""
import json
import struct
import subprocess
import tempfile
from pathlib import Path

SEEDS = Path(__file__).parent
GOLDENS = SEEDS.parent.parent / "vit-engine/tests/goldens"
# Every size that occurs in the goldens' shapes, by family, and what becomes of it.
SIZES = {"vp": {24: 2, 40: 3, 30: 2, 90: 6, 108: 12, 7: 2, 17: 5, 16: 4}, "timm": {24: 2, 72: 6, 96: 8, 11: 2, 8: 2, 10: 5}}
CONFIG = {"image_size": 4, "patch_size": 2, "num_classes": 2, "dim": 2, "depth": 1, "heads": 2, "dim_head": 1, "mlp_dim": 3}
ARGS = {"img_size": [4, 4], "patch_size": 2, "num_classes": 2, "embed_dim": 2, "depth": 1, "num_heads": 1}


def shrunk(name):
    """config.json and model.safetensors"""
    config = json.loads((GOLDENS / name / "config.json").read_text())
    (config["model_args"].update(ARGS) if "model_args" in config else config.update(CONFIG))
    file = (GOLDENS / name / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(file[:8], "little")
    sizes, header, data = SIZES[name.split("-")[0]], {}, b""
    for tensor, entry in json.loads(file[8:end]).items():
        if any(f"{stem}.{layer}." in tensor for stem in ("layers", "blocks") for layer in (1, 2)):
            continue
        shape = [sizes.get(size, size) for size in entry["shape"]]
        length = 4
        for size in shape:
            length *= size
        start = end + entry["data_offsets"][0]
        header[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + length]}
        data += file[start : start + length]
    header, config = json.dumps(header).encode(), json.dumps(config).encode()
    return config, struct.pack("<Q", len(header)) + header + data


def packed(name, precision):
    with tempfile.TemporaryDirectory() as folder:
        config, weights = shrunk(name)
        (Path(folder) / "config.json").write_bytes(config)
        (Path(folder) / "model.safetensors").write_bytes(weights)
        out = Path(folder) / "model.gguf"
        command = ["cargo", "run", "-q", "-p", "vit-engine", "--example", "pack", folder, out, precision]
        subprocess.run(command, check=True, cwd=SEEDS.parent.parent, stdout=subprocess.DEVNULL)
        return out.read_bytes()


# Whose weights the config target has, in its order.
FAMILIES = (
    "vp-new-gray", "timm-token", "vit-classes", "deit-teacher", "dinov2-registers-classes", "clip-vision",
    "siglip-vision", "dinov3-gated", "beit-relative", "timm-siglip", "eva02-tiny", "open_clip-native",
)  # fmt: skip

for target in ("checkpoint", "config", "index", "matmul", "packed", "picture", "processor"):
    (SEEDS / target).mkdir(exist_ok=True)
for name in ("vp-old-cls", "vp-middle-mean", "vp-new-mean", "vp-new-cls", "timm-token", "timm-avg"):
    config, weights = shrunk(name)
    (SEEDS / "checkpoint" / name).write_bytes(struct.pack("<H", len(config)) + config + weights)
PACKED = {"vp-old-cls": "f32", "timm-token": "f16", "vp-new-mean": "bf16", "timm-avg": "int8", "vp-new-cls": "int4"}
for name, precision in PACKED.items():
    (SEEDS / "packed" / f"{name}-{precision}").write_bytes(packed(name, precision))
for number, name in enumerate(FAMILIES):
    config = next((GOLDENS / name).glob("*config.json")).read_bytes()
    (SEEDS / "config" / name).write_bytes(bytes([number]) + config)
index = (GOLDENS / "vit-sharded/model.safetensors.index.json").read_text()
(SEEDS / "index" / "sound").write_text(index)
(SEEDS / "index" / "escape").write_text(index.replace("model-00002", "../model-00002"))
(SEEDS / "index" / "elsewhere").write_text(index.replace("00003-of", "00001-of"))
for rows, n, k in ((1, 80, 60), (40, 80, 60), (7, 33, 16), (6, 48, 1), (0, 5, 5), (13, 17, 0)):
    noise = bytes(i * i * 31 % 251 for i in range(61))
    (SEEDS / "matmul" / f"{rows}x{n}x{k}").write_bytes(bytes([rows, n, k]) + noise)

# One picture of each format, one processor of each library's.
PICTURES = SEEDS.parent.parent / "vit-image/tests/goldens"
for name in ("rgba-16.png", "palette-transparent.png", "420.jpg", "cmyk.jpg", "lossy.webp", "small-frame.gif", "palette.bmp", "palette-lzw.tif"):
    (SEEDS / "picture" / name).write_bytes((PICTURES / "formats" / name).read_bytes())
configs = json.loads((PICTURES / "processors.json").read_text())["configs"]
for name in ("vit-24", "clip-nested-24", "convnext-pct-24", "dinov3-24", "timm-border-tall-24", "open_clip-longest-24"):
    files = configs[name]
    keys = {"config.json": "config", "open_clip_config.json": "config", "preprocessor_config.json": "preprocessor", "processor_config.json": "processor"}
    (SEEDS / "processor" / name).write_text(json.dumps({keys[file]: content for file, content in files.items()}))
