// Threads in Node: the package as it is installed, against itself with one thread.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

import { bits, colourful, expected, fails, folder, installed, packed, samples } from "./support.js";

const place = join(installed(), "node_modules/vit-web");
const entry = (name, of = place) => pathToFileURL(join(of, "lib", name)).href;
const whole = await import(entry("node.js"));
const small = await import(entry("small-node.js"));
const [int8, f32] = [packed("int8"), packed("f32")];
const pictures = samples.slice(0, 4).map((path) => readFileSync(path));
const builds = whole.supported() === "relaxed-simd" ? ["simd128", "relaxed-simd"] : ["simd128"];

/** The bits of all kinds of results. */
async function results(model) {
  const found = [];
  for (const picture of pictures) {
    const prepared = await model.prepare(picture);
    const { logits, classes } = await model.classify(prepared);
    const { map, painted } = await model.attention(prepared, { layer: 2, head: 1, paint: { size: 64 } });
    const { colours } = await model.colours(prepared);
    const numbers = [logits, (await model.embed(prepared)).embedding, map, colours];
    // What leaves the module is not shared with its threads.
    for (const { buffer } of [...numbers, painted.data]) assert.ok(buffer instanceof ArrayBuffer);
    found.push([...numbers.map(bits), classes.map(({ label }) => label), [...painted.data]]);
  }
  return found;
}

for (const build of builds) {
  for (const [precision, path] of [["int8", int8], ["f32", f32]]) {
    test(`the bits do not depend on the threads: ${precision}, ${build}`, async () => {
      const alone = await whole.load(path, { build });
      assert.equal(alone.threads, 1);
      const wanted = await results(alone);
      if (precision === "int8") assert.deepEqual(wanted[1][0], bits(expected(int8, samples[1]).output));
      for (const threads of [2, 3]) {
        const model = await whole.load(path, { build, threads });
        assert.equal(model.threads, threads);
        for (let turn = 0; turn < 3; turn++) assert.deepEqual(await results(model), wanted);
        model.close();
      }
      alone.close();
    });
  }
}

test("models with threads compute beside each other", async () => {
  const models = await Promise.all([[int8, 2], [f32, 3], [int8, 1], [f32, 2]].map(([path, threads]) => small.load(path, { threads })));
  const alone = await Promise.all([int8, f32].map((path) => small.load(path)));
  const { samples: rgba } = colourful(40, 30);
  const wanted = await Promise.all([0, 1, 0, 1].map(async (i) => bits((await alone[i].classify(rgba)).logits)));
  for (let turn = 0; turn < 5; turn++) {
    const found = await Promise.all(models.map((model) => model.classify(rgba)));
    found.forEach(({ logits }, i) => assert.deepEqual(bits(logits), wanted[i]));
  }
  models.forEach((model) => model.close());
});

/** What a program in a process of its own prints. */
const run = (script, ...options) =>
  execFileSync(process.execPath, [...options, "--input-type=module", "-e", script], { encoding: "utf8", timeout: 60_000 });

for (const [how, end] of [["is closed", "model.close();"], ["is forgotten", "model = null;"]]) {
  test(`workers end when their model ${how}`, () => {
    const script = `
      import { readdirSync } from "node:fs";
      import { readFile } from "node:fs/promises";
      import { setTimeout as sleep } from "node:timers/promises";
      const { load } = await import(${JSON.stringify(entry("node.js"))});
      const threads = () => readdirSync("/proc/self/task").length;
      await readFile(${JSON.stringify(int8)}); // Node starts the threads that it reads files with.
      const before = threads();
      let model = await load(${JSON.stringify(int8)}, { threads: 3 });
      console.log(threads() >= before + 2);
      ${end}
      for (let tries = 0; tries < 200 && threads() > before; tries++) {
        await sleep(50);
        gc();
      }
      console.log(threads() <= before);`;
    assert.equal(run(script, "--expose-gc"), "true\ntrue\n");
  });
}

test("a process ends with its program, though workers are there", () => {
  const script = `
    const { load } = await import(${JSON.stringify(entry("node.js"))});
    const model = await load(${JSON.stringify(int8)}, { threads: 3 });
    await model.classify({ data: new Uint8Array(28 * 28 * 4), width: 28, height: 28 });
    console.log("computed on", model.threads);`;
  assert.equal(run(script), "computed on 3\n");
});

test("a worker can load a model with threads", async () => {
  const code = `
    import { parentPort, workerData } from "node:worker_threads";
    const { load } = await import(workerData.module);
    const model = await load(workerData.model, { threads: 2 });
    parentPort.postMessage((await model.classify(workerData.picture)).logits);
    model.close();`;
  const workerData = { module: entry("node.js"), model: int8, picture: new Uint8Array(pictures[2]) };
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
  const logits = await new Promise((done, failed) => worker.once("message", done).once("error", failed));
  assert.deepEqual(bits(logits), bits(expected(int8, samples[2]).output));
});

test("memory is known before, with the stacks of threads", async () => {
  for (const path of [int8, f32]) {
    for (const threads of [2, 5]) {
      const plan = await small.plan(path, { threads });
      const model = await small.load(path, { threads, memory: plan.bytes.memory });
      assert.deepEqual({ ...plan }, Object.fromEntries(Object.keys(plan).map((key) => [key, model[key]])));
      await model.classify(colourful(28, 28).samples);
      assert.ok(model.memoryBytes <= plan.bytes.memory, `${model.memoryBytes} of ${plan.bytes.memory}`);
      await fails(small.load(path, { threads, memory: plan.bytes.memory - 1 }), "memory", /above the limit/);
      model.close();
    }
  }
});

test("numbers of threads that are none are errors", async () => {
  for (const threads of [0, -1, 1.5, 65, NaN, "2", null]) {
    await fails(small.load(int8, { threads }), "argument", /from 1 to 64/);
    await fails(small.plan(int8, { threads }), "argument", /from 1 to 64/);
  }
  await fails(small.load(int8, { threads: 2, build: "simd128-threads" }), "argument", /no build/);
});

test("damaged files are errors", async () => {
  const bytes = readFileSync(int8);
  await fails(small.load(bytes.subarray(0, 5000), { threads: 2 }), "file", /truncated/);
  await fails(small.load(Buffer.from("no model"), { threads: 2 }), "file", /not a GGUF/);
});

/** Replaces a global for a while. */
async function without(object, name, value, check) {
  const kept = Object.getOwnPropertyDescriptor(object, name);
  Object.defineProperty(object, name, { value, configurable: true, writable: true });
  try {
    await check();
  } finally {
    if (kept) Object.defineProperty(object, name, kept);
    else delete object[name];
  }
}

test("where memory cannot be shared, threads are refused and one thread is not", async () => {
  const check = async () => {
    await fails(small.load(int8, { threads: 2 }), "threads", /SharedArrayBuffer.*Cross-Origin-Embedder-Policy/);
    const model = await small.load(int8);
    assert.equal((await model.classify(colourful(28, 28).samples)).logits.length, 10);
    assert.equal((await small.plan(int8, { threads: 2 })).threads, 2);
  };
  await without(globalThis, "SharedArrayBuffer", undefined, check);
  await without(globalThis, "crossOriginIsolated", false, check);
});

test("where waiting is not allowed, threads are refused", async () => {
  const refuse = () => {
    throw new TypeError("Atomics.wait cannot be called in this context");
  };
  await without(Atomics, "wait", refuse, () => fails(small.load(int8, { threads: 2 }), "threads", /in a Worker/));
});

test("an engine that refuses 4 GiB is asked for less", async () => {
  const { Memory } = WebAssembly;
  const asked = [];
  class Small extends Memory {
    constructor(limits) {
      asked.push(limits.maximum);
      if (limits.maximum > 20_000) throw new RangeError("could not allocate memory");
      super(limits);
    }
  }
  await without(WebAssembly, "Memory", Small, async () => {
    const model = await small.load(int8, { threads: 2 });
    assert.equal((await model.classify(colourful(28, 28).samples)).logits.length, 10);
    model.close();
  });
  assert.deepEqual(asked, [65536, 32768, 16384]);
  class None extends Memory {
    constructor() {
      throw new RangeError("could not allocate memory");
    }
  }
  await without(WebAssembly, "Memory", None, () => fails(small.load(int8, { threads: 2 }), "memory", /to be shared/));
});

let copies = 0;

/** A copy of the package, in a file of which a text is another one. */
async function changed(file, from, to) {
  const copy = join(folder, `changed-${copies++}`);
  cpSync(place, copy, { recursive: true });
  const path = join(copy, "lib", file);
  const text = readFileSync(path, "utf8");
  assert.ok(text.includes(from), file);
  writeFileSync(path, text.replace(from, to));
  return import(entry("small-node.js", copy));
}

test("a worker that does not start is an error", async () => {
  for (const [file, from, to, message] of [
    ["helper-node.js", "help(workerData", "throw new Error('on purpose'); help(workerData", /did not start: on purpose/],
    ["helper-node.js", "help(workerData", "process.exit(3); help(workerData", /did not start: it has ended/],
    ["worker-node.js", "./helper-node.js", "./no-such-file.js", /did not start: .*no-such-file/],
    ["worker-node.js", "new Worker(", "new (class { constructor() { throw new Error('no more') } })(", /cannot be started: no more/],
  ]) {
    await fails((await changed(file, from, to)).load(int8, { threads: 3 }), "threads", message);
  }
});

test("a helper that traps ends the pass it is in, with an error", async () => {
  // A stack that is large enough for waiting, and ends in the middle of a task: below it there is no memory.
  const broken = await changed("help.js", "__stack_pointer.value = stack", "__stack_pointer.value = 2048");
  const [model, other] = [await broken.load(f32, { threads: 2 }), await small.load(f32, { threads: 2 })];
  const { samples: rgba } = colourful(28, 28);
  await fails((async () => {
    // The helper may come too late for a pass of a millisecond, but not for all of them.
    for (let i = 0; i < 10_000; i++) await model.classify(rgba);
  })(), "bug", /the module stopped/);
  await fails(model.classify(rgba), "closed", /closed/);
  assert.equal((await other.classify(rgba)).logits.length, 10);
  other.close();
});
