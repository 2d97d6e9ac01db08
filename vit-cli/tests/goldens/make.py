"""Makes `heads.json` and `picture.png`: classes by neighbours and by embeddings of texts, as PyTorch computes them.

Requirements: those of vit-engine/tests/goldens/make.py, whose tiny models are used.

    python make.py
"""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPModel, SiglipModel

HERE = Path(__file__).parent
MODELS = HERE.parent.parent.parent / "vit-engine/tests/goldens"


def neighbours():
    """DINO's evaluation (`knn_classifier` in eval_knn.py): features of norm 1, T = 0.07."""
    classes, dim, k = 5, 12, 7
    centres = torch.randn(classes, dim)
    labels = torch.randint(classes, (40,))
    train = centres[labels] + 0.8 * torch.randn(40, dim)
    queries = centres[torch.arange(8) % classes] + 0.8 * torch.randn(8, dim)
    similarity = F.normalize(queries.double()) @ F.normalize(train.double()).T
    distances, indices = similarity.topk(k, largest=True, sorted=True)
    weights = (distances / 0.07).exp()
    one_hot = F.one_hot(labels[indices], classes)
    votes = (one_hot * weights[..., None]).sum(1)
    return {
        "k": k,
        "folders": [f"class-{label}" for label in labels.tolist()],
        "rows": train.tolist(),
        "queries": queries.tolist(),
        "probabilities": (votes / votes.sum(1, keepdim=True)).tolist(),
    }


def zero_shot(name, pixels):
    """The model's own logits of a picture and three texts, and the texts' embeddings."""
    folder = MODELS / name
    # The tiny CLIP has no end-of-text token in its vocabulary, so that it reads the first token.
    texts = torch.tensor([[3, 5, 3, 7, 9, 10], [7, 8, 8, 2, 6, 10], [9, 4, 9, 3, 2, 10]])
    with torch.no_grad():
        if name.startswith("open_clip"):
            config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
            model = open_clip.create_model(f"local-dir:{folder}").eval()
            embeddings = model.encode_text(texts[:, -config["text_cfg"]["context_length"] :])
            image = model.encode_image(pixels, normalize=True)
            logits = model.logit_scale.exp() * image @ F.normalize(embeddings, dim=-1).T
            bias = getattr(model, "logit_bias", None)
        elif name.startswith("siglip"):
            # The two towers of this model are of different widths, so that only the picture's is run.
            model = SiglipModel.from_pretrained(folder).eval()
            image = F.normalize(model.vision_model(pixels).pooler_output, dim=-1)
            embeddings = torch.randn(3, image.shape[1])
            bias = model.logit_bias
            logits = image @ F.normalize(embeddings, dim=-1).T * model.logit_scale.exp() + bias
        else:
            model = CLIPModel.from_pretrained(folder).eval()
            out = model(input_ids=texts, pixel_values=pixels)
            embeddings, logits, bias = out.text_embeds, out.logits_per_image, getattr(model, "logit_bias", None)
    probabilities = logits.softmax(-1) if bias is None else logits.sigmoid()
    return {
        "model": name,
        # Of any length: the engine normalises them.
        "texts": (embeddings * torch.tensor([[0.5], [1.0], [3.0]])).tolist(),
        "logits": logits[0].tolist(),
        "probabilities": probabilities[0].tolist(),
    }


if __name__ == "__main__":
    torch.manual_seed(7)
    torch.set_num_threads(1)
    picture = np.random.default_rng(7).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(HERE / "picture.png")
    pixels = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    names = sys.argv[1:] or ["clip-model", "siglip-model", "open_clip-native"]
    golden = {"neighbours": neighbours(), "zero_shot": [zero_shot(name, pixels) for name in names]}
    (HERE / "heads.json").write_text(json.dumps(golden) + "\n")
