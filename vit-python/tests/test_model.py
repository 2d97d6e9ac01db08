"""Calls: arrays of every kind, errors, what a model says of itself."""

import copy
import inspect
import os
import pickle
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FASHION, GOLDENS, SAMPLES, tensors
from numpy.typing import NDArray

import vit_engine as vit


@pytest.fixture(scope="module")
def x() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((3, 1, 28, 28), np.float32)


def test_what_is_taken_without_a_copy_and_what_is_gathered(fashion: vit.Model, x: NDArray[np.float32]) -> None:
    y = fashion(x)
    assert isinstance(y, np.ndarray)
    assert y.shape == (3, 10)
    assert y.dtype == np.float32
    strided = np.zeros((3, 1, 28, 56), np.float32)
    strided[..., ::2] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    other: list[Any] = [x.astype(np.float64), x.astype(">f4"), strided[..., ::2], np.asfortranarray(x), unaligned]
    for same in [*other, read_only]:
        assert np.array_equal(fashion(same), y)
    assert np.array_equal(fashion(x.data), y)
    half = x.astype(np.float16)
    assert np.array_equal(fashion(half), fashion(half.astype(np.float32)))
    assert np.array_equal(fashion(x[::-1]), y[::-1])
    assert fashion(x[:0]).shape == (0, 10)
    # The rows of a batch do not depend on what is beside them.
    assert np.array_equal(np.concatenate([fashion(x[i : i + 1]) for i in range(3)]), y)


def test_only_what_has_to_be_is_copied(fashion: vit.Model) -> None:
    x = np.zeros((64, 1, 28, 28), np.float32)

    def allocated(x: NDArray[Any]) -> int:
        tracemalloc.start()
        fashion(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert allocated(x) < x.nbytes / 4
    assert allocated(x[:, :, ::-1]) > x.nbytes
    assert allocated(x.astype(np.float16)) > x.nbytes


def test_dlpack(fashion: vit.Model, x: NDArray[np.float32]) -> None:
    class Tensor:
        """Only DLPack, as a tensor of another library."""

        def __init__(self, array: NDArray[Any]) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    assert np.array_equal(fashion(Tensor(x)), fashion(x))
    assert np.array_equal(fashion(Tensor(x.astype(np.float64))), fashion(x))
    with pytest.raises(TypeError, match="found int32"):
        fashion(Tensor(x.astype(np.int32)))
    grey = np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)
    assert np.array_equal(fashion.preprocess([Tensor(grey)]), fashion.preprocess([grey]))


def test_out(fashion: vit.Model, x: NDArray[np.float32]) -> None:
    y = fashion(x)
    out = np.full((3, 10), np.nan, np.float32)
    assert fashion(x, out=out) is out
    assert np.array_equal(out, y)
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.zeros((3, 9), np.float32), ValueError, r"out has the shape \[3, 9\], expected \[3, 10\]"),
        (np.zeros((3, 10)), TypeError, "float32"),
        (np.zeros((10, 3), np.float32).T, TypeError, "C order"),
        (np.broadcast_to(np.float32(0), (3, 10)), TypeError, "writable"),
        (x.reshape(-1)[:30].reshape(3, 10), ValueError, "shares memory"),
        (np.zeros((3, 10), ">f4"), TypeError, "float32"),
        ([0.0], TypeError, "float32"),
    ]
    for wrong, kind, message in cases:
        before = x.copy()
        with pytest.raises(kind, match=message):
            fashion(x, out=wrong)
        assert np.array_equal(x, before)


def test_nan_gives_nan(fashion: vit.Model, x: NDArray[np.float32]) -> None:
    broken = x.copy()
    broken[1, 0, 5, 5] = np.nan
    y = fashion(broken)
    assert np.isnan(y[1]).all()
    assert np.array_equal(y[[0, 2]], fashion(x)[[0, 2]])


def test_wrong_pixels(fashion: vit.Model, x: NDArray[np.float32]) -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (x[0], ValueError, r"expected pixels of shape \[batch, 1, height, width\], found \[1, 28, 28\]"),
        (np.zeros((1, 3, 28, 28), np.float32), ValueError, r"found \[1, 3, 28, 28\]"),
        (np.zeros((1, 1, 0, 28), np.float32), ValueError, "0"),
        (np.zeros((1, 1, 28, 30), np.float32), ValueError, "30"),
        (x.astype(np.int64), TypeError, "found int64"),
        (x.astype(np.complex64), TypeError, "found complex64"),
        (x.astype(np.longdouble), TypeError, "found float128"),
        (np.array([[None]]), TypeError, "object"),
        ([[1.0]], TypeError, "not 'list'"),
        ("x", TypeError, "not 'str'"),
        (None, TypeError, "not 'NoneType'"),
    ]
    for wrong, kind, message in cases:
        with pytest.raises(kind, match=message):
            fashion(wrong)
    with pytest.raises(ValueError, match="expected logits, class, patches"):
        fashion(x, features="tokens")
    with pytest.raises(vit.VitError, match="layer"):
        fashion(x, features="layer:99")
    with pytest.raises(vit.VitError, match="register"):
        fashion(x, features="registers")


def test_a_model_without_a_head() -> None:
    model = vit.load(GOLDENS / "dinov2-model")
    pixels = tensors(GOLDENS / "dinov2-model/golden.safetensors")["pixels"]
    assert model.labels is None
    assert model.config.classes == 0
    with pytest.raises(vit.VitError, match=r"no head.*features=.*'embedding'"):
        model(pixels)
    assert model.plan(batch=2).output_shape == (2, model.config.embedding_dim)
    assert model(pixels, features="embedding").shape == (len(pixels), model.config.embedding_dim)


def test_what_it_says_of_itself(fashion: vit.Model) -> None:
    c = fashion.config
    assert (c.image_size, c.channels, c.classes, c.precision) == ((28, 28), 1, 10, "f32")
    assert c.patches == (28 // c.patch_size[0]) * (28 // c.patch_size[1])
    assert c.tokens == c.patches + c.registers + c.class_token
    assert c == vit.load(FASHION).config
    assert fashion.labels is not None
    assert len(fashion.labels) == 10
    assert fashion.threads == 2
    assert vit.load(FASHION).threads == len(os.sched_getaffinity(0))
    plan = fashion.plan(batch=8)
    assert plan.batch == 8
    assert plan.output_shape == (8, 10)
    assert plan.arena_bytes > 0
    assert plan.weight_bytes == c.weight_bytes
    assert fashion.plan(1, "patches").output_shape == (1, c.patches, c.dim)
    assert "fashion-vit" in repr(fashion)
    assert "arena_bytes=" in repr(plan)
    assert "classes=10" in repr(c)
    with pytest.raises(vit.VitError, match="batch"):
        fashion.plan(batch=0)
    with pytest.raises(AttributeError):
        c.dim = 3  # type: ignore[misc]


def test_help() -> None:
    for documented in [
        vit,
        vit.load,
        vit.Model,
        vit.Model.embed,
        vit.Model.save,
        vit.Config.dim,
        vit.Embeddings,
        vit.VitError,
    ]:
        assert len(documented.__doc__ or "") > 10, documented
    assert str(inspect.signature(vit.load)) == "(name_or_path, precision=None, threads=None, mmap=True)"
    assert "batch=32, errors='skip', progress=True" in str(inspect.signature(vit.Model.embed))
    assert "model(x, features=None, out=None)" in (vit.Model.__doc__ or "")


def test_loading(tmp_path: Path) -> None:
    cases: list[tuple[str | Path, str]] = [
        ("no/such-model", "such-model"),
        (tmp_path, "in this folder; it is empty"),
        (Path(__file__), "test_model.py"),
    ]
    for path, message in cases:
        with pytest.raises(vit.LoadError, match=message):
            vit.load(path)
    assert issubclass(vit.LoadError, vit.VitError)
    with pytest.raises(ValueError, match="no precision 'f8': there are f32, f16"):
        vit.load(FASHION, precision="f8")  # type: ignore[arg-type]
    for threads in [0, 10**6]:
        with pytest.raises(ValueError, match="threads must be from 1 to"):
            vit.load(FASHION, threads=threads)
    with pytest.raises((OverflowError, TypeError)):
        vit.load(FASHION, threads=-1)
    with pytest.raises(TypeError):
        vit.load(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        vit.Model()


def test_mmap(x: NDArray[np.float32], fashion: vit.Model) -> None:
    assert np.array_equal(vit.load(FASHION, mmap=False)(x), fashion(x))


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "int8", "int4"])
def test_saving(x: NDArray[np.float32], fashion: vit.Model, tmp_path: Path, precision: Any) -> None:
    model, path = vit.load(FASHION, precision=precision), tmp_path / "m.gguf"
    model.save(path)
    packed = vit.load(path)
    assert packed.config == model.config
    assert packed.labels == model.labels
    assert np.array_equal(packed(x), model(x))
    assert np.array_equal(packed.preprocess(SAMPLES), model.preprocess(SAMPLES))
    # Over the file that it is mapped from: it keeps that one. The bytes are the same again.
    data = path.read_bytes()
    packed.save(str(path))
    assert path.read_bytes() == data
    fashion.save(path)
    assert np.array_equal(packed(x), model(x))
    assert np.array_equal(vit.load(path)(x), fashion(x))
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_saving_where_it_cannot_be(fashion: vit.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/m\.gguf: cannot create a file in /nowhere"):
        fashion.save("/nowhere/m.gguf")
    for other in [str(tmp_path), "/dev/null"]:
        with pytest.raises(OSError, match="not a regular file, so it is not replaced"):
            fashion.save(other)
    assert not Path("/dev/null").is_file()
    (tmp_path / "m.gguf").write_text("old")
    with pytest.raises(OSError, match=r"m\.gguf/x: "):
        fashion.save(tmp_path / "m.gguf/x")
    wrongs: list[Any] = [None, 3]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            fashion.save(wrong)
    # A link's target is replaced, and a name without a folder is in the current one.
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("m.gguf")
    fashion.save("link")
    assert Path("link").is_symlink()
    assert vit.load(tmp_path / "m.gguf").config == fashion.config
    fashion.save("new.gguf")
    assert Path("new.gguf").read_bytes() == Path("m.gguf").read_bytes()

    # A disk that is full leaves the old file, and nothing else.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = """
import signal, sys
import vit_engine as vit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    vit.load(sys.argv[1], precision="int8").save("m.gguf")
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, FASHION], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    assert "m.gguf: File too large" in done.stdout
    assert Path("new.gguf").read_bytes() == Path("m.gguf").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "m.gguf", "new.gguf"}


def test_pickling(x: NDArray[np.float32], fashion: vit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FASHION.parent)
    model = vit.load("fashion-vit", precision="int8", threads=1)
    data = pickle.dumps(model)
    # The weights are not in it, and it does not depend on the current folder.
    assert len(data) < 1000
    monkeypatch.chdir("/")
    other = pickle.loads(data)
    assert other.config.precision == "int8"
    assert other.threads == 1
    assert np.array_equal(other(x), model(x))
    assert np.array_equal(copy.deepcopy(fashion)(x), fashion(x))


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(vit.PictureError("a.png: what")))
    assert isinstance(error, vit.PictureError)
    assert str(error) == "a.png: what"
