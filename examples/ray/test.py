"""Runs embed.py on a local Ray, with what goes wrong on many machines: pytest test.py."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from measure import processes
from PIL import Image
from pyarrow import parquet
from ray.data import ActorPoolStrategy

import vit_engine as vit
from vit_engine.ray import Embedder

ROOT = Path(__file__).resolve().parents[2]
FASHION = ROOT / "vit-cli/models/fashion-vit"
SAMPLES = sorted((FASHION / "samples").glob("*.png"))
BAD = {"empty.jpg": b"", "text.jpg": b"no picture\n", "cut.jpg": None}


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A Ray that outlives its drivers, as a cluster does. CPUs are Ray's book-keeping; the machine may have fewer."""
    context = ray.init(num_cpus=8, include_dashboard=False, object_store_memory=1 << 28, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-vit as a packed file."""
    path = tmp_path_factory.mktemp("model") / "fashion.gguf"
    vit.load(FASHION).save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 JPEGs of garments, turned, cut and scaled, and three files that are no pictures."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(7)
    for index in range(400):
        garment = Image.open(SAMPLES[index % len(SAMPLES)]).rotate(float(random.uniform(-30, 30)))
        side = int(random.integers(200, 600))
        garment.resize((side, side + 40), Image.Resampling.BICUBIC).save(folder / f"{index:03}.jpg", quality=90)
    BAD["cut.jpg"] = (folder / "000.jpg").read_bytes()[:300]
    for name, data in BAD.items():
        assert data is not None
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def alone(packed: Path, photos: Path) -> dict[str, tuple[bytes | None, str | None]]:
    """What one process makes of each picture: the bits of its vector, or an error."""
    paths = sorted(photos.iterdir())
    found = vit.load(packed, threads=1).embed(paths, progress=False)
    rows: dict[str, tuple[bytes | None, str | None]] = {
        str(paths[index]): (vector.tobytes(), None) for index, vector in zip(found.kept, found.embeddings, strict=True)
    }
    assert len(rows) == 400
    assert {Path(paths[index]).name for index in found.errors} == set(BAD)
    return rows | {str(paths[index]): (None, message) for index, message in found.errors.items()}


def start(cluster: str, source: Path, model: Path, out: Path, **options: int) -> subprocess.Popen[str]:
    """Start embed.py, a driver of the cluster."""
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in ({"actors": 2, "batch_size": 8} | options).items()
    ]
    script = Path(__file__).with_name("embed.py")
    command: list[str | Path] = [sys.executable, script, source, "--model", model, "--out", out, *flags]
    log = out.with_suffix(".log").open("a")
    return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster}, stdout=log, stderr=log, text=True)


def finish(driver: subprocess.Popen[str], out: Path) -> None:
    """Wait for its end, which must be a success."""
    assert driver.wait(timeout=600) == 0, out.with_suffix(".log").read_text()


def rows(out: Path) -> dict[str, tuple[bytes | None, str | None]]:
    """What was written; a path that is there twice is an error."""
    found: dict[str, tuple[bytes | None, str | None]] = {}
    for file in out.rglob("*.parquet"):
        table = parquet.read_table(file)
        assert table.column_names == ["path", "embedding", "error"]
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 64)
        for row in table.to_pylist():
            assert row["path"] not in found, row["path"]
            vector = row["embedding"]
            found[row["path"]] = (None if vector is None else np.array(vector, np.float32).tobytes(), row["error"])
    return found


def until(holds: Callable[[], Any], driver: subprocess.Popen[str]) -> Any:
    """Wait until something holds, while the driver runs; what it gave."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if found := holds():
            return found
        assert driver.poll() is None, "the driver ended before"
        time.sleep(0.01)
    raise TimeoutError


def written(out: Path) -> list[Path]:
    """The lists of paths that Ray Data has committed."""
    files = Path(f"{out}-checkpoint").glob("*.parquet")
    return [file for file in files if not file.name.endswith(".pending.parquet")]


Rows = dict[str, tuple[bytes | None, str | None]]


def test_the_bits_of_one_process(cluster: str, packed: Path, photos: Path, alone: Rows, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    seen: list[dict[int, dict[str, int]]] = []
    driver = start(cluster, photos, packed, out)
    watch = threading.Thread(
        target=lambda: [(seen.append(processes(packed)), time.sleep(0.05)) for _ in iter(driver.poll, 0)], daemon=True
    )
    watch.start()
    finish(driver, out)
    watch.join(timeout=10)
    assert rows(out) == alone

    # Both actors have computed with the same pages: none is private, so each counts for half in Pss.
    both = [found for found in seen if len(found) == 2 and all(sizes["Rss"] for sizes in found.values())]
    assert both, "the actors were not seen at work together"
    size = packed.stat().st_size // 1024
    assert any(all(sizes["Rss"] > size / 2 for sizes in found.values()) for found in both)
    for sizes in both[-1].values():
        assert sizes["Private_Dirty"] == 0
        assert sizes["Pss"] < sizes["Rss"] * 0.7, both[-1]


def test_a_list_of_paths(cluster: str, packed: Path, photos: Path, alone: Rows, tmp_path: Path) -> None:
    files, missing = sorted(photos.iterdir()), str(photos / "missing.jpg")
    parquet.write_table(pa.table({"path": [*map(str, files), missing]}), tmp_path / "list.parquet", row_group_size=50)
    out = tmp_path / "vectors"
    finish(start(cluster, tmp_path / "list.parquet", packed, out), out)
    found = rows(out)
    vector, error = found.pop(missing)
    assert vector is None
    assert error is not None
    assert "No such file" in error
    assert found == alone


def test_an_actor_is_killed(cluster: str, packed: Path, photos: Path, alone: Rows, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    driver = start(cluster, photos, packed, out)
    until(lambda: len(written(out)) >= 3, driver)
    before = processes(packed)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: set(processes(packed)) - set(before), driver)  # Ray has started another.
    finish(driver, out)
    assert rows(out) == alone


def test_the_driver_is_killed(cluster: str, packed: Path, photos: Path, alone: Rows, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    for stop_at in [3, 6]:  # of 16
        driver = start(cluster, photos, packed, out)
        until(lambda stop_at=stop_at: len(written(out)) >= stop_at, driver)
        driver.kill()
        driver.wait()
        # Ray ends the actors of a driver that is gone.
        end = time.monotonic() + 60
        while processes(packed):
            assert time.monotonic() < end
            time.sleep(0.1)
    done = {file.name for file in written(out)}
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet") if file.name.split("-0.")[0]}
    finish(start(cluster, photos, packed, out), out)
    assert rows(out) == alone
    # What was committed was not computed again.
    assert done <= {file.name for file in written(out)}
    again = [file for file, at in kept.items() if file.exists() and file.stat().st_mtime_ns != at]
    assert not again
    # Nothing is left to do; a new picture is.
    files = set(out.rglob("*.parquet"))
    new = photos / "new.jpg"
    new.write_bytes((photos / "001.jpg").read_bytes())
    try:
        finish(start(cluster, photos, packed, out), out)
    finally:
        new.unlink()
    assert rows(out) == alone | {str(new): alone[str(photos / "001.jpg")]}
    assert files < set(out.rglob("*.parquet"))


def test_threads_are_the_cpus_of_the_actor(cluster: str, packed: Path) -> None:
    class Threads(Embedder):
        def threads(self) -> int:
            return self.model.threads

    for cpus, threads in [(1, 1), (3, 3), (0.5, 1)]:
        actor: Any = ray.remote(Threads).options(num_cpus=cpus).remote(packed)
        assert ray.get(actor.threads.remote()) == threads
    actor = ray.remote(Threads).options(num_cpus=2).remote(packed, threads=1)
    assert ray.get(actor.threads.remote()) == 1


def test_dictionaries_and_other_columns(cluster: str, packed: Path, alone: Rows) -> None:
    rows = [{"name": Path(path).name, "bytes": Path(path).read_bytes()} for path in alone]
    embedded = ray.data.from_items(rows).map_batches(
        Embedder, fn_constructor_args=[packed], compute=ActorPoolStrategy(size=1), num_cpus=1
    )
    for row, (vector, error) in zip(
        sorted(embedded.take_all(), key=lambda row: row["name"]), alone.values(), strict=True
    ):
        assert row["error"] == error
        assert vector is None or np.asarray(row["embedding"], np.float32).tobytes() == vector
        assert "bytes" not in row


def test_a_model_that_is_not_there(cluster: str) -> None:
    pictures = ray.data.from_items([{"path": str(SAMPLES[0])}])
    embedded = pictures.map_batches(
        Embedder, fn_constructor_args=["nowhere"], compute=ActorPoolStrategy(size=1), num_cpus=1
    )
    with pytest.raises(Exception, match="nowhere"):
        embedded.take_all()
