"""Vision Transformers on the CPU: fast, small, the same bits everywhere.

>>> import vit_engine as vit
>>> model = vit.load("google/vit-base-patch16-224")   # a folder, a file, or a name in the local hub cache
>>> x = model.preprocess(["cat.jpg"])                 # float32 [1, 3, 224, 224]
>>> logits = model(x)                                 # float32 [1, 1000]
>>> model.classify("cat.jpg", top=3)
"""

from ._native import Config, LoadError, Model, PictureError, Plan, VitError, __version__, load
from ._results import Embeddings, Prediction

__all__ = [
    "Config",
    "Embeddings",
    "LoadError",
    "Model",
    "PictureError",
    "Plan",
    "Prediction",
    "VitError",
    "__version__",
    "load",
]
