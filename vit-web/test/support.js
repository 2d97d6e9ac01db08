// What the tests share: the command line `vit`, whose numbers are the truth, and pictures.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(import.meta.url), "../../..");
export const model = join(root, "vit-cli/models/fashion-vit");
export const samples = ["ankle-boot-0", "bag-18", "coat-6", "dress-13", "pullover-1", "sandal-8", "shirt-4", "sneaker-9",
  "t-shirt-top-19", "trouser-2"].map((name) => join(model, "samples", `${name}.png`));

/** A folder that goes when the tests end. */
export const folder = mkdtempSync(join(tmpdir(), "vit-web-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** A project that has the package installed, as it is packed: its folder. */
export function installed() {
  const [project, options] = [join(folder, "project"), { encoding: "utf8" }];
  mkdirSync(project);
  const pack = ["pack", "--silent", "--pack-destination", folder];
  const tarball = execFileSync("npm", pack, { cwd: join(root, "vit-web"), ...options }).trim();
  writeFileSync(join(project, "package.json"), '{"private": true, "type": "module"}');
  const install = ["install", "--silent", "--offline", "--no-audit", "--no-fund", join(folder, tarball)];
  execFileSync("npm", install, { cwd: project, ...options });
  return project;
}

/** That a call fails with a VitError. */
export const fails = (promise, code, message) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.name, "VitError", String(error.stack));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });

/** Runs the command line. */
export const vit = (...args) =>
  execFileSync(process.env.VIT ?? join(root, "target/release/vit"), args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

/** fashion-vit, packed in a precision: the path of the file. */
export function packed(precision) {
  const file = join(folder, `${precision}.gguf`);
  vit("convert", "--model", model, "--precision", precision, "--out", file);
  return file;
}

/** The numbers of a .npy file of f32. */
export function npy(path) {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
}

/** The pixels that the command line makes of a picture, and an output of a model for them. */
export function expected(packedModel, picture, features = "logits") {
  const [pixels, out] = [join(folder, "pixels.npy"), join(folder, "out.npy")];
  vit("preprocess", picture, "--model", packedModel, "--out", pixels);
  vit("run", "--model", packedModel, "--pixels", pixels, "--out", out, "--features", features);
  return { pixels: npy(pixels), output: npy(out) };
}

export const bits = (floats) => Array.from(new Uint32Array(floats.buffer, floats.byteOffset, floats.length));

/** max |a − b| ÷ max |b| */
export function difference(a, b) {
  if (a.length !== b.length) return Infinity;
  let [most, largest] = [0, 0];
  b.forEach((x, i) => ([most, largest] = [Math.max(most, Math.abs(a[i] - x)), Math.max(largest, Math.abs(x))]));
  return most / largest;
}

/** A colourful opaque picture: its RGBA samples, and the bytes of a BMP file. */
export function colourful(width, height) {
  const data = new Uint8ClampedArray(width * height * 4);
  const row = Math.ceil((width * 3) / 4) * 4;
  const file = Buffer.alloc(54 + row * height);
  file.write("BM", 0, "latin1");
  file.writeUInt32LE(file.length, 2);
  [[54, 10], [40, 14], [width, 18], [height, 22], [row * height, 34]].forEach(([x, at]) => file.writeUInt32LE(x, at));
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [r, g, b] = [(x * 5 + y) % 256, (x * y) % 256, 255 - ((x + 7 * y) % 256)];
      data.set([r, g, b, 255], (y * width + x) * 4);
      // Bottom up, blue first.
      file.set([b, g, r], 54 + (height - 1 - y) * row + x * 3);
    }
  }
  return { samples: { data, width, height }, file };
}
