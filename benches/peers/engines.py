"""The engines that can be raced, and how to start their workers."""

import json
import subprocess
import sys
from pathlib import Path

from process import Worker, WorkerError

HERE = Path(__file__).resolve().parent

# Names in the report.
LABELS = {
    "vit": "vit",
    "vit-all": "vit (all tokens)",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO (rest in bf16)",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-static": "ONNX Runtime (static)",
    "pytorch": "PyTorch",
    "pytorch-bf16": "PyTorch (model in bf16)",
    "rten": "rten",
    "tract": "tract",
    "candle": "candle",
    "peak": "peak",
}
# The engines of each precision.
PRECISIONS = {
    "f32": ["vit", "vit-all", "openvino", "onnxruntime", "pytorch", "rten", "tract", "candle", "peak"],
    "bf16": ["vit", "vit-all", "openvino", "pytorch", "pytorch-bf16", "peak"],
    "int8": ["vit", "vit-all", "openvino", "openvino-bf16", "onnxruntime", "onnxruntime-static", "pytorch", "peak"],
}
PYTHON = ("openvino", "openvino-bf16", "onnxruntime", "onnxruntime-static", "pytorch", "pytorch-bf16")
OURS = ("vit", "vit-all")


def reference(name):
    """The file with PyTorch's output, to compare an engine's output with; None if the engine has no output."""
    return {"vit-all": "patches.npy", "peak": None}.get(name, "logits.npy")


def build():
    """Builds the Rust worker. Returns (path, None), or (None, the problem)."""
    manifest = HERE / "rust" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics", "--manifest-path", str(manifest)]
    try:
        built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        return None, f"cargo could not be run: {error}"
    if built.returncode:
        return None, f"cargo build failed with exit code {built.returncode}"
    messages = (json.loads(line) for line in built.stdout.splitlines())
    executables = [message["executable"] for message in messages if message.get("executable")]
    return Path(executables[-1]), None


def start(name, precision, folder, cores, rust):
    """Starts the worker of an engine on the given cores; `rust` is the result of `build`, for the Rust engines."""
    if name in PYTHON:
        command = [sys.executable, HERE / "worker.py"]
    else:
        executable, problem = rust
        if executable is None:
            raise WorkerError(problem)
        command = [executable]
    return Worker([*command, name, precision, folder, str(len(cores))], cores)
