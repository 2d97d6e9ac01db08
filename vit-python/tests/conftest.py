"""What the tests share: models that are checked in, and PyTorch's numbers for them."""

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vit_engine as vit

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "vit-engine/tests/goldens"
FASHION = ROOT / "vit-cli/models/fashion-vit"
SAMPLES = sorted((FASHION / "samples").glob("*.png"))
PICTURES = ROOT / "vit-image/tests/goldens"


def tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read a safetensors file of float32."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            assert tensor["dtype"] == "F32"
            start, end = tensor["data_offsets"]
            values = np.frombuffer(data[8 + length :][start:end], np.float32)
            found[name] = values.reshape(tensor["shape"]).copy()
    return found


@pytest.fixture(scope="session")
def fashion() -> vit.Model:
    """Fashion-vit on two threads."""
    return vit.load(str(FASHION), threads=2)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Any]:
    """The command line: its JSON, or what it writes to stderr."""
    name = os.environ.get("VIT_CLI")
    if not name:
        pytest.skip("VIT_CLI is not the path of the binary 'vit'")

    def run(*arguments: str | Path, fails: bool = False) -> Any:
        done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout) if "--json" in arguments else done.stdout

    return run
