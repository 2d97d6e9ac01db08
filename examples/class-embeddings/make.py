"""Makes the embeddings of classes for `vit classify --class-embeddings` from their names, with the text tower of a
CLIP or SigLIP model.

    pip install torch numpy transformers               # or open_clip_torch, for --open-clip
    python make.py --model openai/clip-vit-base-patch32 --labels names.txt --out t.npy
    python make.py --open-clip local-dir:vit-b-32/ --labels names.txt --out t.npy
    vit classify photos/ --model openai/clip-vit-base-patch32 --class-embeddings t.npy --labels names.txt

names.txt has one name a line. --template, which may be given several times, makes prompts of them; {} stands for the
name. A class's embedding is the mean of its prompts' embeddings, each of norm 1, as in CLIP's own evaluation. t.npy is
f32 [classes, E].

--model is a folder or a name for `from_pretrained` of transformers, --open-clip what OpenCLIP's
`create_model_and_transforms` takes: a name (with --pretrained), hf-hub:ORG/NAME or local-dir:FOLDER. It has to be the
model that vit is given.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F


def by_transformers(name):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    length = model.config.text_config.max_position_embeddings

    def encode(prompts):
        # SigLIP was trained with prompts padded to their full length, and without a mask for it.
        tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if "siglip" in model.config.model_type:
            tokens.pop("attention_mask", None)
        features = model.get_text_features(**tokens)
        # transformers 5 returns an object, earlier versions the tensor.
        return getattr(features, "pooler_output", features)

    return encode


def by_open_clip(name, pretrained):
    import open_clip

    model = open_clip.create_model_and_transforms(name, pretrained=pretrained)[0].eval()
    tokenizer = open_clip.get_tokenizer(name)
    return lambda prompts: model.encode_text(tokenizer(prompts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a model of transformers")
    source.add_argument("--open-clip", help="a model of OpenCLIP")
    parser.add_argument("--pretrained", help="the weights of --open-clip")
    parser.add_argument("--labels", required=True, help="the names of the classes, one a line")
    parser.add_argument("--template", action="append", help="default: 'a photo of a {}.'")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    with open(args.labels, encoding="utf-8") as file:
        names = file.read().splitlines()
    templates = args.template or ["a photo of a {}."]
    encode = by_transformers(args.model) if args.model else by_open_clip(args.open_clip, args.pretrained)
    rows = []
    with torch.inference_mode():
        for name in names:
            embeddings = F.normalize(encode([template.format(name) for template in templates]).float(), dim=-1)
            rows.append(F.normalize(embeddings.mean(0), dim=-1))
    np.save(args.out, torch.stack(rows).numpy())
    print(f"{args.out}: {len(rows)} classes × {len(rows[0])}")
