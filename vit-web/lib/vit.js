// The interface of the package. `index.d.ts` documents it.
import { take } from "./image.js";
import { Instance, supported, VitError } from "./module.js";
import { read } from "./source.js";
import { bytesFor, checkEnvironment, checkNumber, sharedMemory } from "./threads.js";

/** What an instance has besides a model: its stack, its constants, and room for small pictures. */
const OVERHEAD = 2 << 20;

/** A picture that a model has prepared. */
class Prepared {
  constructor(picture) {
    Object.assign(this, picture);
  }
}

class Model {
  #instance;
  #current = null;

  constructor(instance, info) {
    this.#instance = instance;
    Object.assign(this, info);
  }

  get memoryBytes() {
    return this.#instance.bytes;
  }

  close() {
    this.#instance.close();
  }

  async prepare(image) {
    const prepared = image instanceof Prepared ? image : new Prepared(await take(image, this.#instance.decodes));
    this.#show(prepared);
    return prepared;
  }

  /** Gives the module a picture, if it has another one. From here to the result nothing waits: calls do not mix. */
  #show(prepared) {
    if (this.#current === prepared) return;
    this.#current = null;
    this.#instance.picture(prepared.source);
    this.#current = prepared;
  }

  /** Computes with a picture, and says how long that took without the picture. */
  async #with(image, compute) {
    const prepared = image instanceof Prepared ? image : new Prepared(await take(image, this.#instance.decodes));
    this.#show(prepared);
    const start = performance.now();
    const result = compute();
    return { ...result, ms: performance.now() - start, decodedBy: prepared.decodedBy };
  }

  async classify(image, { top = 5 } = {}) {
    if (this.classes === 0) throw new VitError("model", "the model has no classifier");
    const { logits, ...rest } = await this.#with(image, () => ({ logits: this.#instance.run("logits") }));
    const pairs = this.#instance.probabilities();
    const classes = [];
    for (let i = 0; i < Math.min(top, this.classes); i++) {
      const index = pairs[2 * i];
      classes.push({ index, label: this.labels[index] ?? null, probability: pairs[2 * i + 1] });
    }
    return { classes, logits, ...rest };
  }

  async embed(image) {
    return this.#with(image, () => ({ embedding: this.#instance.run("embedding") }));
  }

  async attention(image, { layer = 0, head = 0, at = null, paint = null } = {}) {
    const { rows, columns } = this;
    const result = await this.#with(image, () => ({ rows, columns, ...this.#instance.attention(layer, head, at) }));
    return paint ? { ...result, painted: this.#instance.paint("attention", paint) } : result;
  }

  async colours(image, { paint = null } = {}) {
    const { rows, columns } = this;
    const result = await this.#with(image, () => ({ rows, columns, colours: this.#instance.colours() }));
    return paint ? { ...result, painted: this.#instance.paint("colours", paint) } : result;
  }

  async paint(image, paint = {}) {
    return this.#with(image, () => ({ painted: this.#instance.paint("picture", paint) }));
  }

  async run(pixels, output) {
    if (!(pixels instanceof Float32Array)) throw new VitError("argument", "pixels are a Float32Array");
    this.#current = null;
    this.#instance.pixels(pixels);
    return this.#instance.run(output);
  }
}

/** What a header says, as the user of the package sees it. */
function info(facts, threads) {
  const { file, weights, arena, prepares, ...rest } = facts;
  const input = 4 * rest.channels * rest.height * rest.width;
  const memory = file + arena + input + OVERHEAD + bytesFor(threads);
  const bytes = { file, weights, arena, input, memory };
  return Object.freeze({ ...rest, threads, bytes: Object.freeze(bytes), prepares: prepares === 1 });
}

/**
 * The functions of the package for one environment: `binaries` has the URLs of the module for "simd128" and
 * "relaxed-simd", `threaded` those of the modules with threads; `fetchStream` opens a URL, `fetchBytes` reads it, and
 * `startWorker` starts a helper.
 */
export function make({ binaries, threaded, fetchStream, fetchBytes, startWorker }) {
  const compiled = new Map();

  async function compile(build, urls) {
    const found = build ?? supported();
    if (found === null) throw new VitError("simd", "this engine has no WebAssembly SIMD, which the module needs");
    if (!Object.hasOwn(urls, found)) throw new VitError("argument", `no build '${found}'`);
    const url = urls[found];
    if (!compiled.has(url)) {
      const module = fetchBytes(url()).then((bytes) => WebAssembly.compile(bytes));
      compiled.set(url, module);
      // What failed may succeed later.
      module.catch(() => compiled.delete(url));
    }
    return compiled.get(url).catch((error) => {
      throw new VitError("file", `the module cannot be loaded: ${error.message}`, { cause: error });
    });
  }

  async function plan(source, { build, threads = 1, signal } = {}) {
    checkNumber(threads);
    const instance = new Instance(await compile(build, binaries));
    return info(await read(instance, source, fetchStream, { admit: () => false, signal }), threads);
  }

  async function load(source, { build, threads = 1, memory = Infinity, progress, signal } = {}) {
    checkNumber(threads);
    if (threads > 1) checkEnvironment();
    const module = await compile(build, threads > 1 ? threaded : binaries);
    const instance = new Instance(module, threads > 1 ? sharedMemory() : undefined);
    let found;
    const admit = (facts) => {
      found = info(facts, threads);
      if (found.bytes.memory > memory) {
        const message = `the model needs ${found.bytes.memory} bytes of memory, above the limit of ${memory}`;
        throw new VitError("memory", message);
      }
    };
    try {
      await read(instance, source, fetchStream, { admit, progress, signal });
      instance.open();
      if (threads > 1) await instance.start(threads, module, startWorker);
    } catch (error) {
      instance.close();
      throw error;
    }
    return new Model(instance, found);
  }

  return { load, plan };
}

export { supported, VitError };
