"""One engine as a worker of `race.py`: `worker.py ENGINE PRECISION FOLDER THREADS`, then requests on stdin and answers on
stdout, one per line, as `rust/src/protocol.rs` describes.

Each engine is a function that loads the model in a precision and returns its version, how it runs, and a function that
runs it once and returns the logits."""

import gc
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def openvino(precision, folder, threads, pixels, rest="f32"):
    import openvino as ov

    hints = {
        "INFERENCE_NUM_THREADS": threads,
        # The default is bf16 on CPUs that support it. In int8 it is the precision of what is not quantised.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else rest,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = "int8/openvino.xml" if precision == "int8" else "model.onnx"
    compiled = ov.Core().compile_model(folder / model, "CPU", hints)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(pixels))
    logits = request.get_output_tensor()

    def infer():
        request.infer()
        return logits.data

    return ov.get_version(), ", ".join(f"{name}={compiled.get_property(name)}" for name in hints), infer


def openvino_bf16(*task):
    return openvino(*task, rest="bf16")


def onnxruntime(precision, folder, threads, pixels, form="dynamic"):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")  # The default, and the fastest.
    model = f"int8/{form}.onnx" if precision == "int8" else "model.onnx"
    session = ort.InferenceSession(folder / model, options, providers=["CPUExecutionProvider"])
    inputs = {"pixels": pixels}
    return ort.__version__, "all graph optimisations, spinning", lambda: session.run(["logits"], inputs)[0]


def onnxruntime_static(*task):
    return onnxruntime(*task, form="static")


def pytorch(precision, folder, threads, pixels, converted=False):
    import timm
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    model = timm.create_model(json.loads((folder / "config.json").read_text())["architecture"]).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    inputs = torch.from_numpy(pixels)
    about = "eager, inference_mode"
    autocast = precision == "bf16" and not converted
    if autocast:
        about += ", autocast"
    if converted:
        model, inputs = model.bfloat16(), inputs.bfloat16()
        about += ", weights and activations in bf16"
    if precision == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        about += ", dynamic quantisation of nn.Linear"

    def infer():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(inputs).float().numpy()

    return torch.__version__, about, infer


def pytorch_converted(*task):
    return pytorch(*task, converted=True)


ENGINES = {
    "openvino": openvino,
    "openvino-bf16": openvino_bf16,
    "onnxruntime": onnxruntime,
    "onnxruntime-static": onnxruntime_static,
    "pytorch": pytorch,
    "pytorch-bf16": pytorch_converted,
}


def serve(load, precision, folder, threads, say):
    version, about, infer = load(precision, folder, threads, np.load(folder / "pixels.npy"))
    say({"version": version, "about": about, "flops": None})
    gc.disable()
    logits = None
    for line in sys.stdin:
        request, _, argument = line.rstrip("\n").partition(" ")
        if request == "run":
            times = []
            for _ in range(int(argument)):
                start = time.perf_counter_ns()
                logits = infer()
                times.append((time.perf_counter_ns() - start) / 1e6)
            say({"ms": times})
        elif request == "output":
            np.save(argument, logits)
            say({})
        elif request == "quit":
            break
        else:
            raise ValueError(f"unknown request {line!r}")


def main():
    if len(sys.argv) != 5 or sys.argv[1] not in ENGINES:
        raise SystemExit(f"usage: worker.py {'|'.join(ENGINES)} PRECISION FOLDER THREADS")
    # Output of libraries goes to stderr: stdout is for answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        engine, precision, folder, threads = sys.argv[1:]
        serve(ENGINES[engine], precision, Path(folder), int(threads), say)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
