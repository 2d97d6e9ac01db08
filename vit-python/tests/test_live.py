"""transformers and timm on the same weights and pictures, where these are installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PICTURES

import vit_engine as vit

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.live

PHOTOGRAPHS = [PICTURES / f"{name}.png" for name in ["astronaut", "chelsea", "coffee", "rocket"]]


def near(got: Any, want: Any) -> bool:
    """Agreement to 1e-5 of the largest value."""
    want = want.numpy()
    return bool(got.shape == want.shape and np.abs(got - want).max() <= 1e-5 * np.abs(want).max())


def test_transformers(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    image: Any = pytest.importorskip("PIL.Image")
    torch.manual_seed(1)
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 200}
    config = transformers.ViTConfig(image_size=64, patch_size=16, num_labels=7, **sizes)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    ours = vit.load(tmp_path, threads=2)
    images = [image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    x = processor(images, return_tensors="pt")["pixel_values"]
    assert np.array_equal(ours.preprocess(PHOTOGRAPHS), x.numpy())
    assert np.array_equal(ours.preprocess(images), x.numpy())
    with torch.no_grad():
        want = theirs(x, output_hidden_states=True)
    # A tensor of PyTorch's goes in as it is.
    assert near(ours(x), want.logits)
    assert near(ours(x, features="layer:2"), want.hidden_states[2])
    assert near(ours(x.to(torch.float64)), want.logits)
    assert [ours.classify(path)[0].class_id for path in PHOTOGRAPHS] == want.logits.argmax(-1).tolist()
    with pytest.raises(TypeError, match="DLPack"):
        ours(x.clone().requires_grad_())


def test_timm(tmp_path: Path) -> None:
    timm: Any = pytest.importorskip("timm")
    image: Any = pytest.importorskip("PIL.Image")
    torch.manual_seed(2)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5).eval()
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = vit.load(tmp_path, threads=2)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    x = torch.stack([transform(image.open(path).convert("RGB")) for path in PHOTOGRAPHS])
    assert np.array_equal(ours.preprocess(PHOTOGRAPHS), x.numpy())
    with torch.no_grad():
        assert near(ours(x), theirs(x))
        assert near(
            ours.embed(PHOTOGRAPHS, batch=3).embeddings,
            theirs.forward_head(theirs.forward_features(x), pre_logits=True),
        )
