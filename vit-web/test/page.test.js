// The page in headless Chromium. VIT_SCREENSHOT=FILE writes a screenshot, VIT_FOCUS=FILE is a packed model without a
// classifier, VIT_PHOTO=FILE a photograph for it.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import test, { after, before } from "node:test";
import * as zlib from "node:zlib";

import { launch, types } from "./browser.js";
import { bits, difference, expected, packed, root, samples } from "./support.js";

const demo = join(root, "vit-web/demo");
const int8 = packed("int8");
let [server, origin, browser] = [];
let sent = [];

before(async () => {
  server = createServer(({ url }, response) => {
    const name = normalize(decodeURIComponent(new URL(url, "http://x").pathname)).replace(/\/$/, "/index.html");
    try {
      const bytes = readFileSync(join(demo, name));
      response.writeHead(200, { "content-type": types[extname(name)] ?? "application/octet-stream", "cache-control": "no-cache" });
      response.end(bytes);
      sent.push([name, bytes.length]);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  origin = `http://127.0.0.1:${server.address().port}/`;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

/** A new page in a browser of its own storage; what it asks of other servers fails the test. */
async function open({ script, of = browser, service = "block", ...options } = {}) {
  const context = await of.newContext({ viewport: { width: 1000, height: 900 }, serviceWorkers: service, ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(origin) && !/^(data|blob):/.test(request.url())) problems.push(request.url());
  });
  // Text in front of the worker's.
  if (script) {
    await context.route("**/worker.js", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: script + (await response.text()) });
    });
  }
  await page.goto(origin);
  return { page, context, problems };
}

const status = (page, text) => page.waitForFunction((text) => document.querySelector("#status")?.textContent.match(text), text);
const said = (page) => page.textContent("#status");
const logits = async (page) => Float32Array.from(JSON.parse(await page.getAttribute("html", "data-logits")));
const pixels = (page) => page.evaluate(() => document.querySelector("#stage").toDataURL());
const give = (page, name, buffer) => page.setInputFiles("#file", { name, mimeType: "application/octet-stream", buffer });

/** A grey PNG of one bit for a pixel. */
function blank(width, height) {
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name, "latin1"), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc(body));
    return Buffer.concat([length, body, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head[8] = 1;
  const rows = Buffer.alloc((Math.ceil(width / 8) + 1) * height);
  const magic = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([magic, chunk("IHDR", head), chunk("IDAT", zlib.deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

// Node 20 has no zlib.crc32.
function crc(bytes) {
  if (zlib.crc32) return zlib.crc32(bytes);
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

test("the page loads and classifies with the command line's bits", async () => {
  sent = [];
  const { page, context, problems } = await open();
  await status(page, "Ready");
  const total = sent.reduce((sum, [, length]) => sum + length, 0);
  const listed = sent.map(([name, length]) => `${name} ${length}`).join(", ");
  assert.ok(total <= 700_000, `${total} bytes: ${listed}`);
  const facts = await page.textContent("#facts");
  console.log(`page: ${total} bytes; ${facts.replaceAll(/\s+/g, " ")}`);
  assert.match(facts, /First result[\d,.]+ ms/);
  assert.match(facts, /int8/);
  for (const [i, path] of samples.entries()) {
    const button = page.locator("#samples button").nth(i);
    const { output } = expected(int8, path);
    const wanted = JSON.stringify(Array.from(output));
    await button.click();
    await page.waitForFunction((wanted) => document.documentElement.dataset.logits === wanted, wanted);
    assert.deepEqual(bits(await logits(page)), bits(output), path);
  }
  assert.match(await page.textContent("#about"), /ten garments/);
  assert.equal(await page.locator("#bars li").count(), 5);
  if (process.env.VIT_SCREENSHOT) {
    await page.locator("#samples button").nth(0).click();
    await status(page, "Ready");
    await page.screenshot({ path: process.env.VIT_SCREENSHOT });
  }
  assert.deepEqual(problems, []);
  await context.close();
});

test("layers, heads and modes are reached by keyboard", async () => {
  const { page, context } = await open();
  await status(page, "Ready");
  const seen = new Set([await pixels(page)]);
  const press = async (selector, key) => {
    const before = await pixels(page);
    await page.focus(selector);
    await page.keyboard.press(key);
    await page.waitForFunction((before) => document.querySelector("#stage").toDataURL() !== before, before);
    seen.add(await pixels(page));
  };
  await press("#layer", "Home");
  assert.equal(await page.textContent("output[for=layer]"), "1 of 6");
  await press("#layer", "ArrowRight");
  await press("#head", "ArrowRight");
  assert.match(await page.getAttribute("#stage", "aria-label"), /layer 2, head 1/);
  await press("#alpha", "ArrowLeft");
  await press("input[value=attention]", "ArrowDown");
  assert.match(await page.getAttribute("#stage", "aria-label"), /colours/);
  assert.equal(seen.size, 6);
  // From the top, the tabulator comes to everything that can be used.
  await page.evaluate(() => document.activeElement.blur());
  const reached = new Set();
  for (let i = 0; i < 30; i++) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.title));
  }
  for (const name of ["file", "camera", "bag", "mode", "precision"]) assert.ok(reached.has(name), `${name} of ${[...reached]}`);
  await context.close();
});

test("f32 is one switch away", async () => {
  const { page, context } = await open();
  await status(page, "Ready");
  await page.check("input[value=f32]");
  await page.waitForFunction(() => document.querySelector("#facts").textContent.includes("f32"));
  await status(page, "Ready");
  const { output } = expected(packed("f32"), samples[0]);
  assert.ok(difference(await logits(page), output) < 1e-5);
  await context.close();
});

test("wrong files are a message", async () => {
  const { page, context, problems } = await open();
  await status(page, "Ready");
  const model = readFileSync(int8);
  for (const [name, bytes, message] of [
    ["notes.txt", Buffer.from("no picture"), /cannot decode this picture/],
    ["empty.png", Buffer.alloc(0), /cannot decode this picture/],
    ["model.safetensors", Buffer.alloc(64), /is no packed model: 'vit convert/],
    ["cut.gguf", model.subarray(0, 90_000), /truncated/],
    ["old.gguf", Buffer.concat([Buffer.from("GGUF\x02\0\0\0", "latin1"), model.subarray(8)]), /version 2/],
    ["large.png", blank(10_000, 10_000), /100000000 pixels, above the limit|cannot/],
  ]) {
    await give(page, name, bytes);
    await page.waitForFunction(() => document.querySelector("#status").classList.contains("bad"));
    assert.match(await said(page), message, name);
    // And the page goes on.
    await page.locator("#samples button").nth(1).click();
    await status(page, "Ready");
  }
  assert.deepEqual(problems, []);
  await context.close();
});

test("a file can be dropped", async () => {
  const { page, context } = await open();
  await status(page, "Ready");
  const data = await page.evaluateHandle((bytes) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "coat.png", { type: "image/png" }));
    return transfer;
  }, [...readFileSync(samples[2])]);
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
  const wanted = JSON.stringify(Array.from(expected(int8, samples[2]).output));
  await page.waitForFunction((wanted) => document.documentElement.dataset.logits === wanted, wanted);
  await context.close();
});

test("a browser without SIMD is told so", async () => {
  const { page, context } = await open({ script: "WebAssembly.validate = () => false;\n" });
  await status(page, "no WebAssembly SIMD");
  await context.close();
});

test("memory that is refused is a message", async () => {
  const poor = await launch("--js-flags=--wasm-max-mem-pages=26");
  try {
    const { page } = await open({ of: poor });
    await status(page, "Ready|lack of memory");
    await page.check("input[value=f32]");
    await status(page, "Cannot allocate \\d+ bytes of memory");
  } finally {
    await poor.close();
  }
});

test("a worker that stops is a message", async () => {
  const { page, context } = await open({ script: "throw new Error('as a bug would');\n" });
  await status(page, "worker did not start");
  await context.close();
});

test("the camera is classified as it runs", async () => {
  const { page, context, problems } = await open({ permissions: ["camera"] });
  await status(page, "Ready");
  const before = await pixels(page);
  await page.click("#camera");
  await page.waitForFunction(() => document.querySelector("#facts").textContent.includes("per second"));
  const during = await pixels(page);
  assert.notEqual(during, before);
  await page.waitForFunction((during) => document.querySelector("#stage").toDataURL() !== during, during);
  assert.equal(await page.getAttribute("#camera", "aria-pressed"), "true");
  await page.click("#camera");
  assert.equal(await page.getAttribute("#camera", "aria-pressed"), "false");
  assert.deepEqual(problems, []);
  await context.close();
});

test("it works without a network", async () => {
  const { page, context } = await open({ service: "allow" });
  await status(page, "Ready");
  const isKept = () =>
    page.evaluate(async () => {
      const cache = await caches.open("vit-web");
      const kept = await Promise.all([location.href, "models/fashion-vit-int8.gguf"].map((url) => cache.match(url)));
      return kept.every(Boolean);
    });
  for (let tries = 0; !(await isKept()); tries++) {
    const keys = () => page.evaluate(async () => (await (await caches.open("vit-web")).keys()).map(({ url }) => url));
    assert.ok(tries < 100, `kept are only ${tries < 100 || (await keys())}`);
    await page.waitForTimeout(100);
  }
  server.close();
  server.closeAllConnections();
  try {
    // Not page.reload(), which fails when the service worker's own request does.
    await page.evaluate(() => {
      document.querySelector("#status").textContent = "";
      location.reload();
    });
    await status(page, "Ready");
    assert.deepEqual(bits(await logits(page)), bits(expected(int8, samples[0]).output));
  } finally {
    await new Promise((done) => server.listen(Number(new URL(origin).port), "127.0.0.1", done));
    await context.close();
  }
});

test("it fits a phone, and is dark where that is wanted", async () => {
  const { page, context } = await open({ viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await status(page, "Ready");
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await paper();
  await page.emulateMedia({ colorScheme: "light" });
  assert.notEqual(await paper(), dark);
  await context.close();
});

test("a model without a classifier shows attention and colours", { skip: !process.env.VIT_FOCUS && "VIT_FOCUS is not set" }, async () => {
  const { page, context, problems } = await open();
  await status(page, "Ready");
  await page.setInputFiles("#file", process.env.VIT_FOCUS);
  await page.waitForFunction(() => !document.querySelector("#headless").hidden);
  await status(page, "Ready");
  if (process.env.VIT_PHOTO) {
    await page.setInputFiles("#file", process.env.VIT_PHOTO);
    await status(page, "Ready");
  }
  assert.equal(await page.isVisible("#bars"), false);
  const attention = await pixels(page);
  await page.check("input[value=colours]");
  await page.waitForFunction((before) => document.querySelector("#stage").toDataURL() !== before, attention);
  await status(page, "Ready");
  console.log(`without a classifier: ${(await page.textContent("#facts")).replaceAll(/\s+/g, " ")}`);
  if (process.env.VIT_SCREENSHOT) {
    await page.screenshot({ path: process.env.VIT_SCREENSHOT.replace(/\.png$/, "-colours.png") });
  }
  assert.deepEqual(problems, []);
  await context.close();
});
