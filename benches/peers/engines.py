"""The engines that can take part, and how their workers are started."""

import json
import subprocess
import sys
from pathlib import Path

from process import Worker, WorkerError

HERE = Path(__file__).resolve().parent

# As they are shown.
LABELS = {
    "vit": "vit",
    "vit-all": "vit (all tokens)",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "pytorch": "PyTorch",
    "rten": "rten",
    "tract": "tract",
    "candle": "candle",
    "peak": "peak",
}
PYTHON = ("openvino", "onnxruntime", "pytorch")
OURS = ("vit", "vit-all")


def reference(name):
    """The file with what PyTorch computes, to compare an engine's output with; None for what delivers nothing."""
    return {"vit-all": "patches.npy", "peak": None}.get(name, "logits.npy")


def build():
    """Builds the Rust worker. Gives its path, or None and why there is none."""
    manifest = HERE / "rust" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics", "--manifest-path", str(manifest)]
    try:
        built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        return None, f"cargo does not run: {error}"
    if built.returncode:
        return None, f"cargo build ended with {built.returncode}"
    messages = (json.loads(line) for line in built.stdout.splitlines())
    executables = [message["executable"] for message in messages if message.get("executable")]
    return Path(executables[-1]), None


def start(name, folder, cores, rust):
    """Starts the worker of an engine on some cores; `rust` is what `build` gave."""
    if name in PYTHON:
        command = [sys.executable, HERE / "worker.py"]
    else:
        executable, problem = rust
        if executable is None:
            raise WorkerError(problem)
        command = [executable]
    return Worker([*command, name, folder, str(len(cores))], cores)
