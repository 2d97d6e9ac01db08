"""PyTorch's numbers for the golden models, through the binding."""

from typing import Any

import numpy as np
import pytest
from conftest import GOLDENS, tensors

import vit_engine as vit

NAMES = (GOLDENS / "names.txt").read_text().split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:tensors that the model does not use")
def test_every_output(name: str) -> None:
    golden = tensors(GOLDENS / name / "golden.safetensors")
    model = vit.load(GOLDENS / name, threads=1)
    for key, want in golden.items():
        kind, _, size = key.partition("@")
        if kind == "pixels":
            continue
        pixels = golden[f"pixels@{size}" if size else "pixels"]
        got = model(pixels, features=kind)
        assert got.dtype == np.float32
        assert got.shape == want.shape
        # The rounding of weights that are stored in half precision does not come from the engine.
        assert np.abs(got - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3), key


def test_precisions_differ_and_a_packed_precision_is_known() -> None:
    pixels = tensors(GOLDENS / "timm-token/golden.safetensors")["pixels"]
    precisions: list[Any] = ["f32", "f16", "bf16", "int8", "int4"]
    results = {p: vit.load(GOLDENS / "timm-token", precision=p)(pixels) for p in precisions}
    errors = {p: float(np.abs(y - results["f32"]).max() / np.abs(results["f32"]).max()) for p, y in results.items()}
    assert 0 == errors["f32"] < errors["f16"] < errors["bf16"] < errors["int8"] < errors["int4"] < 0.5, errors
