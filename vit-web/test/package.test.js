// The package as a user has it: packed, installed in a folder of its own, and compared with the command line.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createReadStream, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

import { bits, colourful, difference, expected, fails, folder, installed, npy, packed, root, samples, vit } from "./support.js";

const here = join(root, "vit-web");
const resolve = createRequire(join(installed(), "index.js")).resolve;
const whole = await import(pathToFileURL(resolve("vit-web")));
const small = await import(pathToFileURL(resolve("vit-web/small")));

const [int8, f32] = [packed("int8"), packed("f32")];
const formats = (name) => join(root, "vit-image/tests/goldens/formats", name);
// Both where this engine has relaxed SIMD; the engine that CI uses must have it.
const builds = whole.supported() === "relaxed-simd" ? ["simd128", "relaxed-simd"] : ["simd128"];
if (process.env.CI) assert.deepEqual(builds, ["simd128", "relaxed-simd"]);

for (const build of builds) {
  test(`int8 has the command line's bits: ${build}`, async () => {
    const model = await whole.load(int8, { build });
    assert.equal(model.precision, "int8");
    for (const path of [...samples, formats("420.jpg"), formats("progressive.jpg"), formats("rgba-16.png"), formats("oriented-6.jpg")]) {
      const { output } = expected(int8, path);
      const { logits, classes, decodedBy, ms } = await model.classify(readFileSync(path), { top: 3 });
      assert.deepEqual(bits(logits), bits(output), path);
      assert.equal(decodedBy, "vit");
      assert.ok(ms > 0);
      const best = classes[0];
      assert.equal(best.index, output.indexOf(Math.max(...output)));
      assert.equal(best.label, model.labels[best.index]);
      assert.equal(classes.length, 3);
    }
    model.close();
  });

  test(`f32 agrees with the command line: ${build}`, async () => {
    const model = await whole.load(f32, { build });
    for (const path of samples) {
      const { output } = expected(f32, path);
      const { logits } = await model.classify(readFileSync(path));
      assert.ok(difference(logits, output) < 1e-5, `${path}: ${difference(logits, output)}`);
    }
  });

  test(`attention and colours are those of vit attend: ${build}`, async () => {
    const model = await whole.load(int8, { build });
    const picture = readFileSync(samples[0]);
    const map = join(folder, "map.npy");
    for (const [layer, head] of [[0, 0], [1, 2], [model.depth, 1]]) {
      vit("attend", samples[0], "--model", int8, "--npy", map, "--layer", layer || "last", "--head", head || "mean");
      const found = await model.attention(picture, { layer, head, paint: { size: 100 } });
      assert.ok(difference(found.map, npy(map)) < 1e-6, `layer ${layer}, head ${head}`);
      assert.deepEqual([found.rows * found.columns, found.from], [found.map.length, "class"]);
      assert.deepEqual([found.painted.width, found.painted.height, found.painted.data.length], [100, 100, 40000]);
    }
    vit("attend", samples[0], "--model", int8, "--npy", map, "--at", "20,9");
    const patch = await model.attention(picture, { at: [20, 9] });
    assert.ok(difference(patch.map, npy(map)) < 1e-6);
    assert.equal(patch.from, "patch");

    const report = JSON.parse(vit("attend", "--pca", samples[0], "--model", int8, "--json"));
    const want = report.pictures[0].colours.flat().flatMap((colour) => colour ?? [NaN, NaN, NaN]);
    const { colours } = await model.colours(picture);
    assert.equal(colours.length, want.length);
    want.forEach((x, i) => assert.ok(Number.isNaN(x) ? Number.isNaN(colours[i]) : Math.abs(colours[i] - x) < 1e-5, `${i}`));
    const plain = await model.paint(picture, { size: 50 });
    assert.equal(plain.painted.width, 50);
  });
}

test("samples give the numbers of an opaque file", async () => {
  const { samples: rgba, file } = colourful(61, 47);
  const path = join(folder, "colourful.bmp");
  writeFileSync(path, file);
  const { output } = expected(int8, path);
  const [model, without] = [await whole.load(int8), await small.load(int8)];
  for (const [which, image, by] of [[model, file, "vit"], [model, rgba, null], [without, rgba, null], [model, new Blob([file]), "vit"]]) {
    const { logits, decodedBy } = await which.classify(image);
    assert.deepEqual(bits(logits), bits(output));
    assert.equal(decodedBy, by);
  }
  const buffer = file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
  const prepared = await model.prepare(buffer);
  const { embedding } = await model.embed(prepared);
  assert.deepEqual(bits(embedding), bits(expected(int8, path, "embedding").output));
  assert.deepEqual(bits((await model.classify(prepared)).logits), bits(output));
});

test("prepared pixels are taken as they are", async () => {
  const { pixels, output } = expected(int8, samples[3]);
  const model = await small.load(int8);
  assert.deepEqual(bits(await model.run(pixels, "logits")), bits(output));
  const layers = await model.run(pixels, "layers");
  assert.equal(layers.length, (model.depth + 1) * model.tokens * model.dim);
  await fails(model.run(pixels, "everything"), "model", /'everything'/);
  await fails(model.run(pixels.subarray(1), "logits"), "argument", /expected 1×28×28 numbers/);
  await fails(model.run([...pixels], "logits"), "argument", /Float32Array/);
});

test("all precisions are in the whole module, f32 and int8 in the small one", async () => {
  for (const precision of ["f16", "bf16", "int4"]) {
    const path = packed(precision);
    await fails(small.plan(path), "file", new RegExp(`without ${precision}`));
    const model = await whole.load(path);
    const { logits } = await model.classify(readFileSync(samples[0]));
    const { output } = expected(path, samples[0]);
    if (precision === "int4") assert.deepEqual(bits(logits), bits(output));
    else assert.ok(difference(logits, output) < 1e-4, `${precision}: ${difference(logits, output)}`);
  }
});

test("calls at once do not mix", async () => {
  const model = await whole.load(int8);
  const pictures = samples.map((path) => readFileSync(path));
  const alone = [];
  for (const picture of pictures) alone.push(bits((await model.classify(picture)).logits));
  const together = await Promise.all(pictures.map((picture) => model.classify(new Blob([picture]))));
  together.forEach(({ logits }, i) => assert.deepEqual(bits(logits), alone[i]));
});

test("every source gives the same model", async () => {
  const bytes = readFileSync(int8);
  const { output } = expected(int8, samples[5]);
  const server = createServer((request, response) => {
    if (request.url !== "/int8.gguf") return response.writeHead(404).end();
    // In small pieces, and without a length.
    response.writeHead(200);
    createReadStream(int8, { highWaterMark: 777 }).pipe(response);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${server.address().port}`;
  // Node ends the stream of a response that nobody holds any more.
  const held = await fetch(`${url}/int8.gguf`);
  const sources = [int8, pathToFileURL(int8), String(pathToFileURL(int8)), bytes, new Uint8Array(bytes).buffer, new Blob([bytes]),
    `${url}/int8.gguf`, new URL(`${url}/int8.gguf`), await fetch(`${url}/int8.gguf`), held.body];
  for (const source of sources) {
    const steps = [];
    const model = await whole.load(source, { progress: (read, of) => steps.push([read, of]) });
    assert.deepEqual(bits((await model.classify(readFileSync(samples[5]))).logits), bits(output));
    assert.deepEqual(steps.at(-1), [bytes.length, bytes.length]);
  }
  assert.ok(held.ok);
  await fails(whole.load(`${url}/other.gguf`), "file", /404/);
  server.closeAllConnections();
  server.close();
  await fails(whole.load(`${url}/int8.gguf`), "file", /cannot be read/);
  await fails(whole.load(join(folder, "none.gguf")), "file", /no such file/);
  await fails(whole.load(42), "argument", /URL, bytes/);
  await assert.rejects(whole.load(42), whole.VitError);
});

test("memory is known before, and weights are held once", async () => {
  for (const path of [int8, f32]) {
    const size = statSync(path).size;
    const plan = await small.plan(path);
    assert.equal(plan.bytes.file, size);
    const model = await small.load(path);
    assert.deepEqual({ ...plan }, Object.fromEntries(Object.keys(plan).map((key) => [key, model[key]])));
    await model.classify(colourful(28, 28).samples);
    assert.ok(model.memoryBytes <= plan.bytes.memory, `${model.memoryBytes} of ${plan.bytes.memory}`);
    await fails(small.load(path, { memory: plan.bytes.memory - 1 }), "memory", /above the limit/);
    await small.load(path, { memory: plan.bytes.memory });
  }
  // What f32 takes more than int8 are its weights, once, and its arena.
  const [a, b] = [await small.load(int8), await small.load(f32)];
  const more = b.bytes.file + b.bytes.arena - a.bytes.file - a.bytes.arena;
  assert.ok(b.memoryBytes - a.memoryBytes <= more + 2 * 65536, `${b.memoryBytes} − ${a.memoryBytes}`);
});

test("memory that is refused is an error", () => {
  const script = `
    const { load } = await import(${JSON.stringify(pathToFileURL(resolve("vit-web/small")).href)});
    try { await load(${JSON.stringify(f32)}); console.log("loaded"); }
    catch (error) { console.log(error.code, error.message); }`;
  const run = (pages) => execFileSync(process.execPath, [`--wasm-max-mem-pages=${pages}`, "--input-type=module", "-e", script], { encoding: "utf8" });
  assert.match(run(26), /^memory cannot allocate \d+ bytes of memory/);
  assert.match(run(2000), /^loaded/);
});

test("damaged files are errors", async () => {
  const bytes = readFileSync(int8);
  const cut = (length) => bytes.subarray(0, length);
  await fails(whole.load(new Uint8Array(0)), "file", /truncated|not a GGUF/);
  await fails(whole.load(readFileSync(samples[0])), "file", /not a GGUF file/);
  for (const length of [4, 5, 100, 5000, bytes.length - 1]) await fails(whole.load(cut(length)), "file", /truncated/);
  await fails(whole.load(Buffer.concat([bytes, Buffer.alloc(1)])), "file", /goes on behind/);
  const other = Buffer.from(bytes);
  other.writeUInt32LE(7, 4);
  await fails(whole.load(other), "file", /GGUF version 7/);
  // A header that never ends.
  const endless = Buffer.alloc(1 << 20);
  bytes.copy(endless, 0, 0, 8);
  endless.writeBigUInt64LE(1n << 60n, 16);
  await fails(whole.load(endless), "file", /truncated|damaged/);
  // Bytes of the header changed: an error, or a model; never a trap.
  const header = bytes.length - (await whole.plan(int8)).bytes.weights;
  for (let at = 0; at < header; at += 61) {
    const damaged = Buffer.from(bytes);
    damaged[at] ^= 0xff;
    await whole.load(damaged).catch((error) => assert.ok(["file", "memory"].includes(error.code), `${at}: ${error.code} ${error.message}`));
  }
});

test("pictures that cannot be taken are errors", async () => {
  const [model, without] = [await whole.load(int8), await small.load(int8)];
  const png = readFileSync(samples[0]);
  await fails(model.classify(png.subarray(0, 200)), "picture", /truncated|damaged/);
  await fails(model.classify(new Uint8Array(0)), "picture", /does not decode/);
  await fails(model.classify(Buffer.from("no picture")), "picture", /does not decode/);
  await fails(without.classify(png), "picture", /does not decode/);
  await fails(model.classify("coat.png"), "argument", /a picture is/);
  await fails(model.classify({ data: new Uint8Array(7), width: 2, height: 1 }), "picture", /samples/);
  await fails(model.classify({ data: new Uint8Array(0), width: 0, height: 0 }), "picture", /no pixels/);
  // 100 megapixels, of which the file says nothing but the size.
  const large = Buffer.from(png);
  large.writeUInt32BE(10_000, 16);
  large.writeUInt32BE(10_000, 20);
  await fails(model.classify(large), "picture", /above the limit|damaged/);
  // After all that, it still works.
  assert.deepEqual(bits((await model.classify(png)).logits), bits(expected(int8, samples[0]).output));
  await fails(model.attention(png, { layer: 99 }), "model", /layers/);
  await fails(model.attention(png, { head: 99 }), "model", /heads/);
  await fails(model.attention(png, { at: [99, 99] }), "model", /does not see/);
  model.close();
  await fails(model.classify(png), "closed", /closed/);
});

test("loading can be stopped", async () => {
  const stop = new AbortController();
  const loading = whole.load(int8, { signal: stop.signal, progress: () => stop.abort() });
  await assert.rejects(loading, { name: "AbortError" });
});

test("it runs in a worker", async () => {
  const code = `
    import { parentPort, workerData } from "node:worker_threads";
    const { load } = await import(workerData.module);
    const model = await load(workerData.model);
    parentPort.postMessage((await model.classify(workerData.picture)).logits);`;
  const workerData = { module: pathToFileURL(resolve("vit-web")).href, model: int8, picture: new Uint8Array(readFileSync(samples[2])) };
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
  const logits = await new Promise((done, failed) => worker.once("message", done).once("error", failed));
  assert.deepEqual(bits(logits), bits(expected(int8, samples[2]).output));
});

test("the package has what it needs, and no more", () => {
  const files = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: here, encoding: "utf8" }))[0].files;
  const names = files.map(({ path }) => path);
  for (const name of ["index.d.ts", "README.md", "lib/web.js", "wasm/small-simd128.wasm", "wasm/vit-relaxed-simd.wasm", "wasm/vit-simd128-threads.wasm"]) {
    assert.ok(names.includes(name), name);
  }
  assert.ok(names.every((name) => /^(lib\/|wasm\/|index\.d\.ts|README\.md|package\.json)/.test(name)), names.join(" "));
});
