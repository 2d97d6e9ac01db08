"""Embeddings of more pictures than one process can do: a class for Ray Data's `map_batches`.

Ray Data reads, distributes, retries, resumes and writes; an `Embedder` computes. Ray itself is not imported here, so
the same class serves `concurrent.futures` on one machine. Needs pyarrow: `pip install 'vit-engine[ray]'` brings both.

>>> import ray, vit_engine.ray
>>> pictures = ray.data.read_binary_files("photos/", include_paths=True)
>>> rows = pictures.map_batches(
...     vit_engine.ray.Embedder,
...     fn_constructor_args=["/models/dinov2-base.gguf"],
...     compute=ray.data.ActorPoolStrategy(size=8),
...     num_cpus=4,
...     batch_size=256,
... )
>>> rows.write_parquet("vectors/")
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import Model, load

__all__ = ["Embedder"]

# pyarrow.Table has no types.
_Table: TypeAlias = Any
_Batch: TypeAlias = Mapping[str, Sequence[Any] | NDArray[Any]] | _Table
_Arguments: TypeAlias = tuple[str | os.PathLike[str], str | None, int | None, bool, str, int, str | None]


class Embedder:
    """Embeds the pictures of batches, one after the other.

    Parameters
    ----------
    model, precision, mmap
        As in `load`. The path has to exist on every machine. Actors on one machine share the memory of a packed file
        (`Model.save`, 'vit convert'), which each of them maps; of another checkpoint every actor makes a copy.
    threads
        As in `load`; None is, in an actor of Ray's, the `num_cpus` that it was given, rounded down, and at least 1. One
        further thread decodes.
    features
        'embedding', 'class' or 'logits'.
    batch
        Pictures that are computed at a time. Give it several of these at once (`batch_size` of `map_batches`): the next
        pictures are decoded while one batch is computed.
    column
        The column that has the pictures: files as bytes, paths, or arrays of uint8. None is 'bytes', or if there is
        none 'path'.

    Raises
    ------
    LoadError, ValueError
        As `load` does.

    Notes
    -----
    It can be pickled: what is pickled are its arguments. A process that gets it loads the model once, however often it
    is sent: so a `ProcessPoolExecutor` can map it over batches. `threads` should then be said, for there each process
    takes all cores. Vectors have the bits of those of `Model.embed`, on every machine of the same instruction sets.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        precision: Literal["f32", "f16", "bf16", "int8", "int4"] | None = None,
        threads: int | None = None,
        mmap: bool = True,
        features: Literal["embedding", "class", "logits"] = "embedding",
        batch: int = 32,
        column: str | None = None,
    ) -> None:
        """Load the model."""
        # What cannot work is said here, before the first of many batches.
        import pyarrow  # noqa: F401

        if features not in ("embedding", "class", "logits"):
            raise ValueError(f"features must be embedding, class or logits, not '{features}'")
        if batch < 1:
            raise ValueError("batch must be at least 1")
        # Another process may have another current folder.
        model = os.path.abspath(model) if os.path.exists(model) else model
        self._arguments: _Arguments = (model, precision, threads, mmap, features, batch, column)
        self.model: Model = load(model, precision, _cpus() if threads is None else threads, mmap)
        self.features: Literal["embedding", "class", "logits"] = features
        self.batch = batch
        self.column = column
        # Also the error of a model that does not have this output.
        self.dim = self.model.plan(features=features).output_shape[-1]

    def __call__(self, batch: _Batch) -> _Table:
        """Embed the pictures of a batch.

        Parameters
        ----------
        batch
            Columns by their names: a dictionary of arrays or lists, or a pyarrow.Table.

        Returns
        -------
        pyarrow.Table
            A row for each of the batch, in its order. The batch's columns, without that of the pictures unless these
            are paths; 'embedding', float32 lists of fixed size, null for a picture that cannot be read or whose vector
            is NaN or infinite; and 'error', which says why, else null.

        Raises
        ------
        ValueError
            If there is no column of pictures, or one is named 'embedding' or 'error'.
        """
        import pyarrow as pa

        is_table = isinstance(batch, pa.Table)
        of: Any = batch
        names = list(of.column_names if is_table else of)
        column = self._column(names)
        pictures = of[column].to_pylist() if is_table else list(of[column])
        embeddings, errors = self._embed(pictures)
        good = np.array([error is None for error in errors], bool)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self.dim, mask=pa.array(~good))
        if is_table:
            are_paths = pa.types.is_string(of[column].type) or pa.types.is_large_string(of[column].type)
        else:
            are_paths = any(isinstance(picture, str) for picture in pictures)
        columns = {name: _arrow(of[name]) for name in names if name != column or are_paths}
        return pa.table(columns | {"embedding": vectors, "error": pa.array(errors, pa.string())})

    def _column(self, names: list[str]) -> str:
        taken = {"embedding", "error"} & set(names)
        if taken:
            raise ValueError(f"the batch has a column '{min(taken)}' already")
        wanted = ["bytes", "path"] if self.column is None else [self.column]
        for name in wanted:
            if name in names:
                return name
        raise ValueError(f"no column '{' or '.join(wanted)}' of pictures: there are {', '.join(names)}")

    def _embed(self, pictures: list[Any]) -> tuple[NDArray[np.float32], list[str | None]]:
        """Vectors, [pictures, dim], zero where there is an error."""
        present = [index for index, picture in enumerate(pictures) if picture is not None]
        found = self.model.embed(
            [pictures[index] for index in present], batch=self.batch, progress=False, features=self.features
        )
        errors: list[str | None] = ["there is no picture" if picture is None else None for picture in pictures]
        for index, message in found.errors.items():
            errors[present[index]] = message
        embeddings = np.zeros((len(pictures), self.dim), np.float32)
        embeddings[np.array(present, np.int64)[found.kept]] = found.embeddings
        return embeddings, errors

    def __reduce__(self) -> tuple[Callable[..., "Embedder"], _Arguments]:
        """Its arguments."""
        return _of_this_process, self._arguments

    def __repr__(self) -> str:
        """Name the model."""
        return f"Embedder({self.model!r}, features='{self.features}')"


_last: dict[tuple[Any, ...], Embedder] = {}


def _of_this_process(*arguments: Any) -> Embedder:
    """Make the embedder that has these arguments, once: each task of a pool of processes is sent one."""
    if arguments not in _last:
        _last.clear()
        _last[arguments] = Embedder(*arguments)
    return _last[arguments]


def _cpus() -> int | None:
    """Count the CPUs that Ray gave to this actor; None where there is none."""
    # It has been imported if this is an actor.
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if context.get_actor_id() is None:
        return None
    return max(1, int(context.get_assigned_resources().get("CPU", 0)))


def _arrow(values: Any) -> Any:
    """Make a column something for Arrow, which takes no arrays of more than one dimension."""
    return values.tolist() if isinstance(values, np.ndarray) and values.ndim > 1 else values
