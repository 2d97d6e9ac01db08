// Pictures in all the forms that they come in.
import { VitError } from "./module.js";

/** The most pixels that a picture may have, as in the module. */
const MOST_PIXELS = 50_000_000;

// The first bytes of the formats that the module decodes: PNG, JPEG, GIF, BMP, TIFF, WebP ("RIFF....WEBP").
const MAGIC = [
  [0x89, 0x50, 0x4e, 0x47],
  [0xff, 0xd8, 0xff],
  [0x47, 0x49, 0x46, 0x38],
  [0x42, 0x4d],
  [0x49, 0x49, 0x2a, 0],
  [0x4d, 0x4d, 0, 0x2a],
];

function isDecodedHere(bytes) {
  const text = (start) => String.fromCharCode(...bytes.subarray(start, start + 4));
  return MAGIC.some((magic) => magic.every((byte, i) => bytes[i] === byte)) || (text(0) === "RIFF" && text(8) === "WEBP");
}

/** RGBA samples as they are; "browser" if the browser made them of something else. */
const samples = ({ data, width, height }, decodedBy) => ({ source: { data, width, height }, decodedBy });

/**
 * A picture as the module takes it, `source`: the bytes of a file, or RGBA samples; and who decoded it, `decodedBy`: "vit",
 * "browser", or null for samples.
 */
export async function take(image, decodes) {
  if (image?.data && "width" in image && "height" in image) {
    const { data, width, height } = image;
    if (!ArrayBuffer.isView(data) || data.BYTES_PER_ELEMENT !== 1 || data.length !== width * height * 4) {
      throw new VitError("picture", "the samples of a picture are bytes: red, green, blue, alpha for each pixel");
    }
    return samples(image, null);
  }
  if (image instanceof ArrayBuffer) return encoded(new Uint8Array(image), decodes);
  if (ArrayBuffer.isView(image)) {
    return encoded(new Uint8Array(image.buffer, image.byteOffset, image.byteLength), decodes);
  }
  if (typeof Blob === "function" && image instanceof Blob) {
    return decodes ? encoded(new Uint8Array(await image.arrayBuffer()), decodes, image) : drawn(await bitmap(image));
  }
  if (image && typeof image === "object" && typeof createImageBitmap === "function") return drawn(image);
  throw new VitError("argument", "a picture is ImageData, the bytes of a file, a Blob, or what a canvas can draw");
}

async function encoded(bytes, decodes, blob) {
  if (decodes && isDecodedHere(bytes)) return { source: bytes, decodedBy: "vit" };
  return drawn(await bitmap(blob ?? new Blob([bytes])));
}

/** The browser's decoder. */
async function bitmap(blob) {
  if (typeof createImageBitmap !== "function") {
    throw new VitError("picture", "the module does not decode this picture, and there is no browser that could");
  }
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new VitError("picture", `the browser cannot decode this picture: ${error.message}`, { cause: error });
  }
}

/** What a canvas can draw, as samples. */
function drawn(image) {
  const width = image.videoWidth ?? image.naturalWidth ?? image.displayWidth ?? image.width;
  const height = image.videoHeight ?? image.naturalHeight ?? image.displayHeight ?? image.height;
  try {
    if (!(width > 0 && height > 0)) throw new VitError("picture", "the picture has no pixels");
    if (width * height > MOST_PIXELS) {
      const message = `${width}×${height} is ${width * height} pixels, above the limit of ${MOST_PIXELS}`;
      throw new VitError("picture", message);
    }
    const canvas =
      typeof OffscreenCanvas === "function"
        ? new OffscreenCanvas(width, height)
        : Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new VitError("memory", "the browser gives no canvas for the picture");
    context.drawImage(image, 0, 0);
    return samples(context.getImageData(0, 0, width, height), "browser");
  } catch (error) {
    throw error instanceof VitError
      ? error
      : new VitError("picture", `the browser cannot draw this picture: ${error.message}`, { cause: error });
  } finally {
    if (typeof ImageBitmap === "function" && image instanceof ImageBitmap) image.close();
  }
}
