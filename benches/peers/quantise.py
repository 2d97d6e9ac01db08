"""Makes the int8 forms of a model that prepare.py made, for the engines that read their own.

    python quantise.py FOLDER

FOLDER/int8 appears only when it is complete:

    openvino.xml, openvino.bin   NNCF's post-training quantisation for transformers, with static activation scales
    dynamic.onnx                 ONNX Runtime's: int8 weights for each channel, activation scales found as it runs
    static.onnx                  ONNX Runtime's QDQ form, with static activation scales
    about.json                   the versions used

Static scales are calibrated on the one image that is raced: the best case for them.
"""

import json
import shutil
import sys
from pathlib import Path

from prepare import recipe


def about(folder):
    """The about.json of the int8 models in this folder; None if they must be made."""
    try:
        found = json.loads((folder / "int8" / "about.json").read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("recipe") == recipe(__file__) and not found["missing"] else None


def openvino(model, pixels, out):
    import nncf
    import openvino as ov

    calibration = nncf.Dataset([pixels])
    quantised = nncf.quantize(
        ov.Core().read_model(model), calibration, subset_size=1, model_type=nncf.ModelType.TRANSFORMER
    )
    ov.save_model(quantised, out / "openvino.xml")
    return {"openvino": ov.get_version(), "nncf": nncf.__version__}


def onnxruntime(model, pixels, out):
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OneImage(CalibrationDataReader):
        def __init__(self):
            self.left = [{"pixels": pixels}]

        def get_next(self):
            return self.left.pop() if self.left else None

    prepared = out / "prepared.onnx"
    quant_pre_process(model, prepared)
    weights = {"per_channel": True, "weight_type": QuantType.QInt8}
    quantize_dynamic(prepared, out / "dynamic.onnx", op_types_to_quantize=["MatMul", "Gemm"], **weights)
    quantize_static(
        prepared,
        out / "static.onnx",
        OneImage(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        **weights,
    )
    prepared.unlink()
    return {"onnxruntime": onnxruntime.__version__}


def quantise(folder):
    import numpy as np

    pixels = np.load(folder / "pixels.npy")
    making = folder / "int8.making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    made_with, missing = {}, []
    for make in (openvino, onnxruntime):
        try:
            made_with |= make(folder / "model.onnx", pixels, making)
        except ImportError as error:  # An engine that is not installed is skipped.
            missing.append(str(error))
    facts = {"recipe": recipe(__file__), "made_with": made_with, "missing": missing}
    (making / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder / "int8", ignore_errors=True)
    making.rename(folder / "int8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: quantise.py FOLDER")
    quantise(Path(sys.argv[1]))
