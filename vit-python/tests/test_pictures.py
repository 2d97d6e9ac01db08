"""Preprocessing, classification and embeddings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FASHION, GOLDENS, PICTURES, SAMPLES
from PIL import Image, ImageOps

import vit_engine as vit


@pytest.fixture(scope="module")
def rgb_model(tmp_path_factory: pytest.TempPathFactory) -> vit.Model:
    """A golden model that takes RGB, with a processor that only rescales its own size."""
    folder = tmp_path_factory.mktemp("rgb")
    for file in (GOLDENS / "vit-classes").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    height, width = vit.load(folder).config.image_size
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return vit.load(folder, threads=2)


def by_pillow(image: Image.Image, size: tuple[int, int]) -> Any:
    """What transformers' ViT processor makes of an image, with Pillow."""
    height, width = size
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    levels = (np.asarray(resized).astype(np.float64) * (1 / 255)).astype(np.float32)
    return ((levels - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)


def test_pillows_numbers(rgb_model: vit.Model) -> None:
    formats = [
        "rgb.png",
        "palette.png",
        "grey.png",
        "444.jpg",
        "420.jpg",
        "oriented-6.jpg",
        "lossy.webp",
        "deflate.tif",
    ]
    files = [PICTURES / "chelsea.png", PICTURES / "coffee.png", *(PICTURES / "formats" / name for name in formats)]
    x = rgb_model.preprocess(files)
    assert x.dtype == np.float32
    assert x.shape == (len(files), 3, *rgb_model.config.image_size)
    for file, got in zip(files, x, strict=True):
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            assert np.array_equal(got, by_pillow(upright, rgb_model.config.image_size)), file
            # Paths, bytes, Pillow's image and arrays are the same picture.
            array = np.asarray(upright.convert("RGB"))
            same: list[Any] = [str(file), file.read_bytes(), upright, array, np.asfortranarray(array)]
            assert all(np.array_equal(one, got) for one in rgb_model.preprocess(same)), file


def test_grey_and_rgb(rgb_model: vit.Model, fashion: vit.Model) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    assert np.array_equal(fashion.preprocess([rgb]), fashion.preprocess([grey]))
    assert np.array_equal(fashion.preprocess([Image.fromarray(rgb)]), fashion.preprocess([grey[..., None]]))
    x = rgb_model.preprocess([grey, np.repeat(grey[..., None], 3, 2), Image.fromarray(grey)])
    assert np.array_equal(x[0], x[1])
    assert np.array_equal(x[0], x[2])
    assert fashion.preprocess([]).shape == (0, 1, 28, 28)
    # An array of pictures is a list of them.
    assert fashion.preprocess(np.stack([rgb, rgb])).shape == (2, 1, 28, 28)


def test_pictures_that_are_none(fashion: vit.Model, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(SAMPLES[0].read_bytes()[:100])
    cases: list[tuple[Any, type[Exception], str]] = [
        (tmp_path / "missing.png", vit.PictureError, "missing.png: No such file"),
        (tmp_path, vit.PictureError, "is a folder, not a file"),
        (text, vit.PictureError, "text.png: not a picture in PNG, JPEG"),
        (cut, vit.PictureError, "cut.png: "),
        (b"", vit.PictureError, "picture 0: not a picture"),
        ("/dev/null", vit.PictureError, "not a regular file"),
        (np.zeros((0, 5), np.uint8), vit.PictureError, "no pixels"),
        (np.zeros((5, 5, 4), np.uint8), vit.PictureError, r"shape \[5, 5, 4\]"),
        (np.zeros(5, np.uint8), vit.PictureError, r"shape \[5\]"),
        (np.zeros((5, 5)), vit.PictureError, "uint8"),
        (3, TypeError, "not 'int'"),
        (None, TypeError, "not 'NoneType'"),
    ]
    for wrong, kind, message in cases:
        with pytest.raises(kind, match=message):
            fashion.preprocess([wrong])
        with pytest.raises(kind, match=message):
            fashion.classify(wrong)
    ones: list[Any] = [SAMPLES[0], str(SAMPLES[0]), SAMPLES[0].read_bytes(), Image.open(SAMPLES[0])]
    for one in ones:
        with pytest.raises(TypeError, match="a list of pictures"):
            fashion.preprocess(one)
    with pytest.raises(TypeError, match="iterable"):
        fashion.preprocess(3)  # type: ignore[arg-type]
    model = vit.load(GOLDENS / "vit-classes")
    with pytest.raises(vit.VitError, match=r"preprocessor_config.json|prepared"):
        model.preprocess([SAMPLES[0]])


def test_classes(fashion: vit.Model) -> None:
    for path in SAMPLES:
        top = fashion.classify(path)
        assert len(top) == 5
        assert top[0].label.lower().replace("/", " ").replace(" ", "-") == path.stem.rpartition("-")[0]
        logits = fashion(fashion.preprocess([path]))[0]
        order = np.argsort(-logits, kind="stable")[:5]
        assert [p.class_id for p in top] == order.tolist()
        softmax = np.exp(logits - logits.max())
        softmax /= softmax.sum()
        assert np.allclose([p.probability for p in top], softmax[order], atol=1e-6)
        assert fashion.labels is not None
        assert all(p.label == fashion.labels[p.class_id] for p in top)
    assert len(fashion.classify(SAMPLES[0], top=100)) == 10
    assert fashion.classify(SAMPLES[0], top=0) == []


def test_embeddings(fashion: vit.Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    pictures = [*SAMPLES[:3], broken, *SAMPLES[3:], tmp_path / "missing.png"]
    want = fashion(fashion.preprocess(SAMPLES), features="embedding")
    for batch in [1, 2, 4, 32]:
        e = fashion.embed(pictures, batch=batch, progress=False)
        assert isinstance(e, vit.Embeddings)
        assert e.embeddings.dtype == np.float32
        assert e.kept.dtype == np.int64
        assert np.array_equal(e.embeddings, want)
        assert e.kept.tolist() == [i for i in range(len(pictures)) if i not in (3, len(pictures) - 1)]
        assert list(e.errors) == [3, len(pictures) - 1]
        assert "not a picture" in e.errors[3]
        assert "No such file" in e.errors[len(pictures) - 1]
    rows, kept, errors = fashion.embed(SAMPLES, features="logits")
    assert np.array_equal(rows, fashion(fashion.preprocess(SAMPLES)))
    assert not errors
    assert kept.tolist() == list(range(len(SAMPLES)))
    with pytest.raises(vit.PictureError, match=r"broken.png: not a picture"):
        fashion.embed(pictures, errors="raise")
    images = [Image.open(path) for path in SAMPLES]
    assert np.array_equal(fashion.embed(images).embeddings, want)
    assert np.array_equal(fashion.embed(path for path in SAMPLES).embeddings, want)
    assert fashion.embed([]).embeddings.shape == (0, want.shape[1])
    assert fashion.embed([broken]).embeddings.shape == (0, want.shape[1])


def test_progress_of_embeddings(fashion: vit.Model, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    fashion.embed(SAMPLES, batch=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(SAMPLES), len(SAMPLES))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    fashion.embed(SAMPLES, progress=True)
    assert capfd.readouterr().err == ""  # no terminal

    def fails(done: int, total: int) -> None:
        raise KeyError(done, total)

    with pytest.raises(KeyError):
        fashion.embed(SAMPLES, progress=fails)
    for options, message in [
        ({"errors": "ignore"}, "'skip' or 'raise'"),
        ({"features": "patches"}, "one row for each picture"),
        ({"batch": 0}, "at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            fashion.embed(SAMPLES, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="progress"):
        fashion.embed(SAMPLES, progress=3)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        fashion.embed(SAMPLES, batch=-1)


def test_a_terminal_sees_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from vit_engine._progress import Bar

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = Bar()
    bar(1, 4)
    bar(2, 4)
    bar(4, 4)
    bar.close()
    shown = terminal.getvalue()
    assert "1/4 pictures" in shown
    assert "2/4" not in shown  # less than a tenth of a second later
    assert shown.endswith("0 s left\n")


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    # Pixels of ±1 over a standard deviation of 1e-39 are infinite, and so are NaN after the first norm.
    for file in FASHION.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 28, "width": 28},
                "image_mean": [0.5],
                "image_std": [1e-39],
            }
        )
    )
    config.pop("pretrained_cfg", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = vit.load(tmp_path)
    assert not np.isfinite(model.preprocess(SAMPLES[:1])).all()
    e = model.embed(SAMPLES[:3])
    assert len(e.kept) == 0
    assert "NaN or infinite" in e.errors[0]
    with pytest.raises(vit.VitError, match="the logits are NaN"):
        model.classify(SAMPLES[0])
