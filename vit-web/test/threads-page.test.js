// Threads in headless Chromium, on pages that are served with the headers that they need, and without.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import test, { after, before } from "node:test";

import { launch, types } from "./browser.js";
import { bits, expected, packed, root, samples } from "./support.js";

const int8 = packed("int8");
const isolating = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
/** What a page and its worker do: load a model, and say what it gives for a picture. */
const compute = `
  import { load } from "./lib/web.js";
  export async function compute(options) {
    try {
      const picture = new Uint8Array(await (await fetch("./picture.png")).arrayBuffer());
      const model = await load("./int8.gguf", options);
      const { logits, classes } = await model.classify(picture);
      const { map, painted } = await model.attention(picture, { paint: { size: 64 } });
      const image = new ImageData(painted.data, painted.width, painted.height);
      const found = { logits: [...logits], label: classes[0].label, map: [...map], width: image.width, threads: model.threads };
      model.close();
      return found;
    } catch (error) {
      return { code: error.code ?? error.name, message: error.message };
    }
  }`;
const written = {
  "page.html": "<!doctype html><title>threads</title>",
  "compute.js": compute,
  "worker.js": `
    import { compute } from "./compute.js";
    onmessage = async ({ data }) => postMessage(await compute(data));`,
  "int8.gguf": readFileSync(int8),
  "picture.png": readFileSync(samples[4]),
};
let [server, origin, browser] = [];
/** Files that the server does not have for now. */
let missing = [];

before(async () => {
  server = createServer(({ url }, response) => {
    // "/isolated/lib/web.js" or "/plain/lib/web.js"
    const [, place, name] = normalize(new URL(url, "http://x").pathname).match(/^\/(isolated|plain)\/(.*)$/) ?? [];
    try {
      if (missing.includes(name)) throw new Error("missing");
      const body = written[name] ?? readFileSync(join(root, "vit-web", name));
      const type = types[extname(name)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, ...(place === "isolated" ? isolating : {}) }).end(body);
    } catch {
      response.writeHead(404, isolating).end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  origin = `http://127.0.0.1:${server.address().port}`;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

/** What `compute` finds, in a page or in a worker of it. */
async function ask(place, where, options) {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(60_000);
  await page.goto(`${origin}/${place}/page.html`);
  const found = await page.evaluate(async ([where, options]) => {
    if (where === "page") return (await import("./compute.js")).compute(options);
    const worker = new Worker("./worker.js", { type: "module" });
    worker.postMessage(options);
    return new Promise((done, failed) => {
      worker.onmessage = ({ data }) => done(data);
      worker.onerror = ({ message }) => failed(new Error(message));
    });
  }, [where, options]);
  await page.context().close();
  return found;
}

test("a worker on an isolated page computes with threads, and gets the same bits", async () => {
  const { output } = expected(int8, samples[4]);
  const alone = await ask("plain", "worker", {});
  assert.deepEqual(bits(Float32Array.from(alone.logits)), bits(output));
  for (const build of ["simd128", "relaxed-simd"]) {
    for (const threads of [1, 2, 3]) {
      assert.deepEqual(await ask("isolated", "worker", { build, threads }), { ...alone, threads });
    }
  }
  assert.deepEqual(await ask("isolated", "page", {}), alone);
});

test("without the headers threads are refused", async () => {
  const { code, message } = await ask("plain", "worker", { threads: 2 });
  assert.equal(code, "threads", message);
  assert.match(message, /Cross-Origin-Opener-Policy: same-origin/);
});

test("in the page itself threads are refused", async () => {
  const { code, message } = await ask("isolated", "page", { threads: 2 });
  assert.equal(code, "threads", message);
  assert.match(message, /in a Worker/);
});

test("a worker whose script is not there is an error", async () => {
  for (missing of [["lib/helper-web.js"], ["lib/help.js"]]) {
    const { code, message } = await ask("isolated", "worker", { threads: 2 });
    assert.equal(code, "threads", message);
    assert.match(message, /did not start/);
  }
  missing = ["wasm/vit-relaxed-simd-threads.wasm"];
  assert.equal((await ask("isolated", "worker", { threads: 2 })).code, "file");
  missing = [];
});
