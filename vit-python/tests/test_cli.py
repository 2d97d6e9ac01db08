"""The command line's own numbers and messages. VIT_CLI is the path of the binary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FASHION, GOLDENS, PICTURES, SAMPLES

import vit_engine as vit


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_classes_and_probabilities(cli: Callable[..., Any], precision: Any) -> None:
    model = vit.load(FASHION, precision=precision)
    said = cli("classify", *SAMPLES, "--model", FASHION, "--precision", precision, "--top", "10", "--json")
    for path, answer in zip(SAMPLES, said, strict=True):
        ours = [{"class": c, "label": label, "probability": p} for c, label, p in model.classify(path, top=10)]
        # JSON has the shortest digits that give the f32.
        want = [{**p, "probability": float(np.float32(p["probability"]))} for p in answer["predictions"]]
        assert ours == want


def test_pixels_logits_and_embeddings(cli: Callable[..., Any], tmp_path: Path, fashion: vit.Model) -> None:
    x, y, e = tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "e.npy"
    for picture in [SAMPLES[3], PICTURES / "chelsea.png"]:
        cli("preprocess", picture, "--model", FASHION, "--out", x)
        ours = fashion.preprocess([picture])
        assert np.array_equal(ours, np.load(x))
        for features in ["logits", "patches", "embedding", "layer:2", "attention"]:
            cli("run", "--model", FASHION, "--pixels", x, "--out", y, "--features", features)
            assert np.array_equal(fashion(ours, features=features), np.load(y)), features
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    said = cli("embed", *SAMPLES, broken, "--model", FASHION, "--out", e, fails=True)
    ours_e = fashion.embed([*SAMPLES, broken], batch=3)
    assert np.array_equal(ours_e.embeddings, np.load(e))
    assert json.loads((tmp_path / "e.npy.json").read_text())["paths"] == [str(SAMPLES[i]) for i in ours_e.kept]
    assert ours_e.errors[len(SAMPLES)] in said


def test_packed_files_and_plans(cli: Callable[..., Any], tmp_path: Path, fashion: vit.Model) -> None:
    packed = tmp_path / "m.gguf"
    cli("convert", "--model", FASHION, "--out", packed, "--precision", "int8")
    model, x = vit.load(packed), fashion.preprocess(SAMPLES)
    # What Python saves is the same file.
    vit.load(FASHION, precision="int8").save(tmp_path / "ours.gguf")
    assert (tmp_path / "ours.gguf").read_bytes() == packed.read_bytes()
    assert model.config.precision == "int8"
    assert model.labels == fashion.labels
    assert np.array_equal(model(x), vit.load(FASHION, precision="int8")(x))
    assert np.array_equal(vit.load(packed, mmap=False)(x), model(x))
    with pytest.raises(vit.LoadError, match="int8"):
        vit.load(packed, precision="f32")
    said = cli("plan", "--model", FASHION, "--batch", "8", "--json")
    plan = fashion.plan(batch=8)
    for name in ["arena_bytes", "weight_bytes", "macs", "images_in_flight", "rows_per_block"]:
        assert getattr(plan, name) == said[name], name


@pytest.mark.parametrize("name", ["missing", "no-folder/x", "tests"])
def test_messages_of_loading(cli: Callable[..., Any], name: str) -> None:
    path = GOLDENS.parent if name == "tests" else Path("/nowhere") / name
    with pytest.raises(vit.LoadError) as raised:
        vit.load(path)
    assert f"error: {raised.value}" == cli("inspect", "--model", path, fails=True).strip()
