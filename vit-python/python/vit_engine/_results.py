"""What the methods of a model return."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Prediction(NamedTuple):
    """A class of a picture, with its probability."""

    class_id: int
    label: str
    probability: float


class Embeddings(NamedTuple):
    """Vectors of pictures.

    `embeddings` is float32 [kept, dim]. `kept` is int64 [kept]: which of the pictures each row is of. `errors` says why
    the other pictures have no row, by their index.
    """

    embeddings: NDArray[np.float32]
    kept: NDArray[np.int64]
    errors: dict[int, str]
