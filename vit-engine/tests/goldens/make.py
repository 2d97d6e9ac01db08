"""Makes the golden models: tiny Vision Transformers with random weights and what
the original libraries compute with them.

Requirements (what the stored files were made with, on Python 3.11, CPU): see the README.

    python make.py                      # every model
    python make.py vp-old-cls timm-avg  # only those named

Each model gets a folder `<name>/` beside this script, as the README describes.
"""

import sys

import torch

import hf_models
import open_clip_models
import timm_models
import vit_pytorch_models
from common import make

LIBRARIES = (vit_pytorch_models, timm_models, hf_models, open_clip_models)

if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = {name: kind for library in LIBRARIES for name, kind in library.kinds().items()}
    for name in sys.argv[1:] or kinds:
        make(name, kinds[name])
