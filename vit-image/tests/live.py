"""Compares vit-image with the installed libraries on photographs: every processor, up and down, every format.

    pip install pillow transformers timm open_clip_torch torchvision scikit-image scikit-learn
    python vit-image/tests/live.py          # from the workspace's root

Prints the worst of each case, and fails beyond the bounds that the crate's documentation states.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parent / "goldens"))
from reference import cases, levels, reference, write

ROOT = Path(__file__).parents[2]
# At most this many levels, on at most this share of the samples.
LOSSLESS, LOSSY = (1, 0.01), (3, 0.03)


def photos():
    from skimage import data
    from sklearn.datasets import load_sample_image

    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        yield name, Image.fromarray(getattr(data, name)())
    for name in ("china", "flower"):
        yield name, Image.fromarray(np.array(load_sample_image(f"{name}.jpg")))


def prepared(lines):
    """What the crate makes of each (picture, folder, channels): an array, or an error."""
    with tempfile.TemporaryDirectory() as folder:
        out = lambda i: f"{folder}/{i}"
        text = "".join(f"{picture}\t{model}\t{channels}\t{out(i)}\n" for i, (picture, model, channels) in enumerate(lines))
        command = ["cargo", "run", "-q", "--release", "-p", "vit-image", "--example", "prepare"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        for i, ((_, _, channels), line) in enumerate(zip(lines, done.stdout.splitlines(), strict=True)):
            if line.startswith("error"):
                yield line
            else:
                yield np.fromfile(out(i), dtype="<f4").reshape(channels, *map(int, line.split()))


failures = 0


def check(name, got, want, bounds, mean_bound=None):
    """`got` and `want` are levels."""
    global failures
    if isinstance(got, str) or got.shape != want.shape:
        failures += 1
        print(f"FAILED {name}: {got if isinstance(got, str) else got.shape}, not {want.shape}")
        return
    distance = np.abs(got - want)
    if mean_bound:
        good, text = distance.mean() <= mean_bound, f"mean {distance.mean():.5f}, most {distance.max():.3f}"
    else:
        most, share = bounds
        rounded = np.round(distance)
        good = rounded.max() <= most and (rounded > 0).mean() <= share
        text = f"at most {rounded.max():.0f}, on {(rounded > 0).mean() * 100:.3f} %"
    failures += not good
    print(f"{'      ' if good else 'FAILED'} {name}: {text}", flush=True)


def compare(work, sources, side):
    lines, wanted = [], []
    for name, files in cases(side).items():
        write(files, work / name)
        for source, path, bounds in sources:
            image = Image.open(path).convert("RGB")
            try:
                tensor, rescale, mean, std = reference(files, image)
            except Exception as error:
                print(f"left out {name} of {source}: {error}")
                continue
            lines.append((path, work / name, 3))
            wanted.append((f"{name} {side} of {source}", tensor, rescale, mean, std, bounds))
    for got, (name, tensor, rescale, mean, std, bounds) in zip(prepared(lines), wanted, strict=True):
        got = got if isinstance(got, str) else levels(got, rescale, mean, std)
        floats = "dinov3" in name and "bytes" not in name
        check(name, got, levels(tensor, rescale, mean, std), bounds, 0.05 if floats else None)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def main(sides):
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        lossless, lossy = [], []
        for name, image in photos():
            image.save(work / f"{name}.png")
            lossless.append((f"{name}.png", work / f"{name}.png", LOSSLESS))
            for kind, format, options in (
                ("jpg", "JPEG", {"quality": 90}),
                ("420.jpg", "JPEG", {"quality": 75, "subsampling": "4:2:0", "progressive": True}),
                ("444.jpg", "JPEG", {"quality": 95, "subsampling": "4:4:4"}),
                ("422.jpg", "JPEG", {"quality": 85, "subsampling": "4:2:2"}),
                ("webp", "WEBP", {"quality": 80}),
            ):
                path = work / f"{name}.{kind}"
                path.write_bytes(encoded(image, format, **options))
                lossy.append((path.name, path, LOSSY))
        decoded = prepared([(path, "-", 3) for _, path, _ in lossless + lossy])
        for (name, path, bounds), got in zip(lossless + lossy, decoded, strict=True):
            want = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), dtype=np.float64).transpose(2, 0, 1)
            check(f"decoded {name}", got, want, bounds)
        for side in sides:
            compare(work, lossless, side)
        compare(work, lossy[::4], sides[0])
    print(f"{failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main([int(side) for side in sys.argv[1:]] or [224, 448, 33]))
