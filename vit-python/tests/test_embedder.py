"""The class for Ray Data, without Ray: batches in, tables out, also in pools of processes and threads."""

import multiprocessing
import os
import pickle
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FASHION, GOLDENS, SAMPLES

import vit_engine as vit

pa: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")
from vit_engine.ray import Embedder  # noqa: E402

PATHS = [str(path) for path in SAMPLES]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(FASHION, threads=2, batch=3)


def vectors(table: Any) -> list[bytes | None]:
    rows = table["embedding"].to_pylist()
    return [None if row is None else np.array(row, np.float32).tobytes() for row in rows]


def test_bytes_paths_and_arrays(embedder: Embedder, fashion: vit.Model) -> None:
    want = [vector.tobytes() for vector in fashion.embed(PATHS, progress=False).embeddings]
    files = [path.read_bytes() for path in SAMPLES]
    table = embedder({"path": np.array(PATHS, object), "bytes": np.array(files, object), "n": np.arange(len(files))})
    assert vectors(table) == want
    assert table.column_names == ["path", "n", "embedding", "error"]
    assert table["path"].to_pylist() == PATHS
    assert table["error"].null_count == len(PATHS)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 64)
    assert vectors(embedder(pa.table({"bytes": files}))) == want
    table = embedder(pa.table({"path": PATHS}))
    assert (vectors(table), table.column_names) == (want, ["path", "embedding", "error"])
    grey = np.stack([np.full((28, 28), n, np.uint8) for n in range(5)])
    table = Embedder(FASHION, threads=1, column="image")({"image": grey, "box": np.zeros((5, 2, 2))})
    assert vectors(table) == [vector.tobytes() for vector in fashion.embed(list(grey), progress=False).embeddings]
    assert table.column_names == ["box", "embedding", "error"]
    assert table["box"].to_pylist() == [[[0.0, 0.0], [0.0, 0.0]]] * 5


def test_bad_pictures_are_rows_with_an_error(embedder: Embedder, tmp_path: Path) -> None:
    good, bad = SAMPLES[0].read_bytes(), b"no picture"
    table = embedder(pa.table({"id": [1, 2, 3, 4], "bytes": [bad, good, None, good]}))
    a, b, c, d = vectors(table)
    assert (a, c) == (None, None)
    assert b == d == vectors(embedder({"bytes": [good]}))[0]
    first, *others = table["error"].to_pylist()
    assert "not a picture" in first
    assert others == [None, "there is no picture", None]
    # All of a batch may be bad, or there may be none: the types stay.
    none: list[list[bytes | None]] = [[bad, bad], [None], []]
    for files in none:
        found = embedder(pa.table({"id": np.zeros(len(files), np.int64), "bytes": pa.array(files, pa.binary())}))
        assert found.schema == table.schema
        assert found["error"].null_count == 0
    # Parquet takes rows that are null.
    parquet.write_table(table, tmp_path / "x.parquet")
    assert vectors(parquet.read_table(tmp_path / "x.parquet")) == vectors(table)


def test_what_is_refused(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match="no column 'bytes or path' of pictures: there are a, b"):
        embedder({"a": [], "b": []})
    with pytest.raises(ValueError, match="no column 'x'"):
        Embedder(FASHION, column="x")({"path": []})
    with pytest.raises(ValueError, match="a column 'error' already"):
        embedder({"path": [], "error": []})
    with pytest.raises(ValueError, match="features must be"):
        Embedder(FASHION, features="patches")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch must be"):
        Embedder(FASHION, batch=0)
    with pytest.raises(vit.LoadError, match="nowhere"):
        Embedder("nowhere")
    # A model without what is asked for is refused before the first batch.
    with pytest.raises(vit.VitError, match="class"):
        Embedder(GOLDENS / "siglip-vision", features="class")


@pytest.mark.parametrize("features", ["logits", "class", "embedding"])
def test_features(features: Any, fashion: vit.Model) -> None:
    table = Embedder(FASHION, "int8", threads=1, features=features)({"path": PATHS[:3]})
    model = vit.load(FASHION, "int8", threads=1)
    want = model.embed(PATHS[:3], features=features, progress=False).embeddings
    assert vectors(table) == [vector.tobytes() for vector in want]
    assert table.schema.field("embedding").type.list_size == want.shape[1]


def named(embedder: Embedder, batch: dict[str, list[str]]) -> tuple[int, int, Any]:
    return os.getpid(), id(embedder), embedder(batch)


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn"])
def test_pools(kind: str, embedder: Embedder, fashion: vit.Model) -> None:
    want = [vector.tobytes() for vector in fashion.embed(PATHS, progress=False).embeddings]
    batches = [{"path": PATHS[at : at + 2]} for at in range(0, len(PATHS), 2)]
    processes = None if kind == "threads" else multiprocessing.get_context(kind)
    pool: Executor = ThreadPoolExecutor(2) if processes is None else ProcessPoolExecutor(2, processes)
    with pool:
        found = list(pool.map(named, [embedder] * len(batches), batches, timeout=60))
    assert [vector for _, _, table in found for vector in vectors(table)] == want
    # Each process has loaded the model once.
    assert len({(process, which) for process, which, _ in found}) == len({process for process, _, _ in found})


def test_pickling_keeps_the_arguments() -> None:
    embedder = Embedder(FASHION, "int8", threads=1, features="class", batch=5, column="file")
    same = pickle.loads(pickle.dumps(embedder))
    assert (same.batch, same.column, same.dim) == (5, "file", 64)
    assert repr(same) == repr(embedder)
    assert "precision='int8'" in repr(same)
    assert pickle.loads(pickle.dumps(embedder)) is same
