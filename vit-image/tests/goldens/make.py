"""Makes the golden pictures: files of every format with what Pillow reads of them, and photographs with what every
processor of transformers, timm and open_clip makes of them.

    pip install pillow transformers timm open_clip_torch torchvision scikit-image
    python make.py

README.md says what the files hold, and with which versions they were made.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
from reference import cases, levels, reference

HERE = Path(__file__).parent
DOWN, UP = 24, 150
# Of large tensors every so many-th sample is kept.
LARGE, STRIDE = 8000, 17


def photos():
    """Crops of photographs in the public domain."""
    from skimage import data

    return {
        "chelsea": Image.fromarray(data.chelsea()[60:150, 100:220]),
        "coffee": Image.fromarray(data.coffee()[100:220, 200:290]),
        "rocket": Image.fromarray(data.rocket()[200:241, 300:343]),
        "astronaut": Image.fromarray(data.astronaut()[90:121, 150:291]),
    }


def processors(pictures):
    names, expected, index = {}, bytearray(), []
    for side in (DOWN, UP):
        for name, files in cases(side).items():
            case = f"{name}-{side}"
            names[case] = files
            for picture in pictures if side == DOWN else ("chelsea", "rocket"):
                tensor, rescale, mean, std = reference(files, pictures[picture])
                exact = levels(tensor, rescale, mean, std)
                floats = "dinov3" in name and "bytes" not in name
                if floats:
                    stored = np.round(exact * 64).astype("<i2")
                else:
                    stored = np.round(exact).clip(0, 255).astype(np.uint8)
                    # Zeros that were added after normalising are no levels.
                    assert "padded" in name or np.abs(exact - stored).max() < 2e-3, case
                stride = STRIDE if stored.size > LARGE else 1
                index.append({
                    "case": case, "picture": picture, "shape": list(tensor.shape), "rescale": rescale, "mean": list(map(float, mean)),
                    "std": list(map(float, std)), "floats": floats, "stride": stride, "offset": len(expected),
                })  # fmt: skip
                expected += stored.reshape(-1)[::stride].tobytes()
    (HERE / "processors.bin").write_bytes(expected)
    lines = ",\n".join(json.dumps(entry) for entry in index)
    configs = ",\n".join(f"{json.dumps(name)}: {json.dumps(files)}" for name, files in names.items())
    (HERE / "processors.json").write_text(f'{{"configs": {{\n{configs}\n}},\n"tensors": [\n{lines}\n]}}\n')


def png(array, color_type, depth=8, chunks=b""):
    """A PNG of what Pillow does not write: 16 bits, fewer than 8 bits of grey, a tRNS chunk."""
    height, width = array.shape[:2]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if depth == 16:
        rows = array.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = array.astype(np.uint8).reshape(height, -1)
    else:
        bits = (array[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(height, -1)
        rows = np.packbits(bits.astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    transparent = chunk(b"tRNS", chunks) if chunks else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + transparent + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def as_text(exif, zip):
    """As ImageMagick writes it: an empty line, the name, the length, and lines of 72 digits."""
    data = exif.tobytes()
    digits = data.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\n".join(["", "exif", f"{len(data):8}", *lines, ""]), zip=zip)
    return info


def files(rgb):
    """Names and bytes of picture files."""
    width, height = rgb.size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    alpha = Image.fromarray(((x * 9 + y * 5) % 256).astype(np.uint8))
    rgba, grey = rgb.copy(), rgb.convert("L")
    rgba.putalpha(alpha)
    la, palette, two = Image.merge("LA", (grey, alpha)), rgb.quantize(50), rgb.convert("1")
    wide = np.asarray(rgb).astype(np.uint16) * 256 + (x + 3 * y).astype(np.uint16)[..., None] % 256
    wide_alpha = np.asarray(alpha).astype(np.uint16)[..., None] * 257
    cmyk = rgb.convert("CMYK")
    frames = {"save_all": True, "append_images": [rgb.transpose(0), rgb.transpose(1)], "duration": 50}
    yield "rgb.png", saved(rgb, "PNG")
    yield "rgba.png", saved(rgba, "PNG")
    yield "grey.png", saved(grey, "PNG")
    yield "grey-alpha.png", saved(la, "PNG")
    yield "palette.png", saved(palette, "PNG")
    yield "palette-2-bits.png", saved(rgb.quantize(4), "PNG", bits=2)
    yield "palette-transparent.png", saved(palette, "PNG", transparency=bytes(range(0, 250, 5)))
    yield "bilevel.png", saved(two, "PNG")
    yield "grey-16.png", png(wide[..., 0], 0, 16)
    yield "grey-alpha-16.png", png(np.concatenate([wide[..., :1], wide_alpha], 2), 4, 16)
    yield "rgb-16.png", png(wide, 2, 16)
    yield "rgba-16.png", png(np.concatenate([wide, wide_alpha], 2), 6, 16)
    yield "grey-2.png", png(np.asarray(grey) >> 6, 0, 2)
    yield "grey-4.png", png(np.asarray(grey) >> 4, 0, 4)
    yield "grey-transparent.png", png(np.asarray(grey), 0, 8, struct.pack(">H", 100))
    yield "rgb-transparent.png", png(np.asarray(rgb), 2, 8, struct.pack(">HHH", 100, 90, 80))
    yield "animated.png", saved(rgb, "PNG", **frames)
    yield "oriented.png", saved(rgb, "PNG", exif=oriented(6))
    yield "oriented-text.png", saved(rgb, "PNG", pnginfo=as_text(oriented(8), zip=False))
    yield "oriented-zipped-text.png", saved(rgb, "PNG", pnginfo=as_text(oriented(5), zip=True))
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield f"{sampling.replace(':', '')}.jpg", saved(rgb, "JPEG", quality=90, subsampling=sampling)
    yield "progressive.jpg", saved(rgb, "JPEG", progressive=True)
    yield "restarts.jpg", saved(rgb, "JPEG", restart_marker_rows=1)
    yield "grey.jpg", saved(grey, "JPEG")
    yield "cmyk.jpg", saved(cmyk, "JPEG")
    yield "rgb.jpg", saved(rgb, "JPEG", keep_rgb=True)
    for value in range(1, 9):
        yield f"oriented-{value}.jpg", saved(rgb, "JPEG", exif=oriented(value))
    yield "oriented-xmp.jpg", saved(rgb, "JPEG", xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>')
    yield "lossy.webp", saved(rgb, "WEBP", quality=80)
    yield "lossless.webp", saved(rgb, "WEBP", lossless=True)
    yield "lossy-alpha.webp", saved(rgba, "WEBP", quality=80)
    yield "lossless-alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "animated.webp", saved(rgb, "WEBP", lossless=True, **frames)
    yield "oriented.webp", saved(rgb, "WEBP", lossless=True, exif=oriented(3))
    gif = saved(palette, "GIF")
    yield "palette.gif", gif
    yield "grey.gif", saved(grey, "GIF")
    yield "transparent.gif", saved(palette, "GIF", transparency=7)
    yield "animated.gif", saved(palette, "GIF", **frames)
    yield "interlaced.gif", saved(palette, "GIF", interlace=1)
    # The frame does not cover the screen.
    yield "small-frame.gif", gif[:6] + struct.pack("<HH", width + 9, height + 4) + gif[10:]
    yield "rgb.bmp", saved(rgb, "BMP")
    yield "rgba.bmp", saved(rgba, "BMP")
    yield "grey.bmp", saved(grey, "BMP")
    yield "palette.bmp", saved(palette, "BMP")
    yield "bilevel.bmp", saved(two, "BMP")
    for name, image in (("rgb", rgb), ("rgba", rgba), ("grey", grey), ("grey-alpha", la), ("palette", palette), ("bilevel", two), ("cmyk", cmyk)):
        yield f"{name}.tif", saved(image, "TIFF")
    yield "grey-16.tif", saved(Image.fromarray(wide[..., 0]), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression.split('_')[-1]}.tif", saved(rgb, "TIFF", compression=compression)
    yield "palette-lzw.tif", saved(palette, "TIFF", compression="tiff_lzw")
    yield "group4.tif", saved(two, "TIFF", compression="group4")
    yield "oriented.tif", saved(rgb, "TIFF", tiffinfo={0x0112: 6})


def formats(rgb):
    folder, index, expected = HERE / "formats", [], bytearray()
    folder.mkdir(exist_ok=True)
    for name, data in files(rgb):
        (folder / name).write_bytes(data)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if image.mode.startswith("I;16"):
            # Pillow would clip it to white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        index.append({"file": name, "size": [image.height, image.width], "offset": len(expected)})
        expected += image.convert("RGB").tobytes() + image.convert("L").tobytes()
    (HERE / "formats.bin").write_bytes(expected)
    (HERE / "formats.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in index) + "\n]\n")


if __name__ == "__main__":
    pictures = photos()
    for name, picture in pictures.items():
        picture.save(HERE / f"{name}.png", optimize=True)
    formats(pictures["chelsea"].crop((10, 20, 47, 43)))
    processors(pictures)
