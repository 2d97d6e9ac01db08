// One instance of the WebAssembly module, which holds one model. `src/lib.rs` describes the functions.

/** What can go wrong; `code` says what kind it is. */
export class VitError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = "VitError";
    this.code = code;
  }
}

// Modules of a few bytes, which are valid where these instructions are known: i8x16.splat, i8x16.relaxed_swizzle.
const SIMD = [10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];
const knows = (code) =>
  WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, ...code]));

/** Which of the builds this engine can run: "relaxed-simd", "simd128", or null. */
export function supported() {
  if (typeof WebAssembly !== "object" || !knows(SIMD)) return null;
  return knows(RELAXED) ? "relaxed-simd" : "simd128";
}

// In the order of vit_facts.
const FACTS = [
  "file", "weights", "arena", "channels", "height", "width", "patchHeight", "patchWidth", "rows", "columns",
  "tokens", "dim", "depth", "heads", "poolHeads", "classes", "embedding", "prepares",
];

/**
 * What a helper takes of the memory: as much stack as a model's own thread has, of which passes were seen to use 140 KB;
 * the last bytes are local to its thread.
 */
export const HELPER_BYTES = 1 << 20;
const LOCAL = 4096;

/** Ends the workers of models that are forgotten without being closed. */
const forgotten = new FinalizationRegistry((helpers) => end(helpers));

function end(helpers) {
  for (const helper of helpers.splice(0)) helper.end();
}

export class Instance {
  #exports;
  #memory;
  #helpers = [];

  /** `memory` is what a module with threads takes; others have their own. */
  constructor(module, memory) {
    try {
      this.#exports = new WebAssembly.Instance(module, memory && { env: { memory } }).exports;
      this.#memory = memory ?? this.#exports.memory;
    } catch (error) {
      throw new VitError("memory", `WebAssembly did not start: ${error.message}`, { cause: error });
    }
  }

  /** Bytes of all the memory that the instance has. */
  get bytes() {
    return this.#buffer().byteLength;
  }

  get decodes() {
    return "vit_picture_file" in this.#call();
  }

  close() {
    end(this.#helpers);
    [this.#exports, this.#memory] = [null, null];
  }

  /**
   * Lets passes run on so many threads, this one and those of workers that `startWorker` starts. They are ready when the
   * promise resolves.
   */
  async start(threads, module, startWorker) {
    this.#ask("bug", "vit_threads", threads);
    forgotten.register(this, this.#helpers);
    const [memory, { value: local }] = [this.#memory, this.#call("__tls_size")];
    for (let number = 1; number < threads; number++) {
      // The stack goes from its end to its beginning.
      const stack = this.#ask("memory", "vit_helper", HELPER_BYTES - LOCAL + local) + HELPER_BYTES - LOCAL;
      try {
        this.#helpers.push(startWorker({ module, memory, stack, local: stack }));
      } catch (error) {
        throw new VitError("threads", `a worker cannot be started: ${error.message}`, { cause: error });
      }
    }
    await Promise.all(this.#helpers.map(({ ready }) => ready)).catch((error) => {
      throw new VitError("threads", `a worker did not start: ${error.message}`, { cause: error });
    });
  }

  // Memory that grows gets a new buffer, so that views are made anew for each use. What leaves them is a copy: memory
  // that threads share is refused by much of what takes bytes.
  #view(Type, place, length) {
    return new Type(this.#buffer(), place, length);
  }

  #buffer() {
    this.#call();
    return this.#memory.buffer;
  }

  /** The exports, or one of them. */
  #call(name) {
    if (!this.#exports) throw new VitError("closed", "the model is closed");
    return name ? this.#exports[name] : this.#exports;
  }

  /** Calls a function. A trap is a bug, after which nothing in the instance can be relied on. */
  #run(name, ...numbers) {
    try {
      return this.#call(name)(...numbers);
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      this.close();
      throw new VitError("bug", `the module stopped, by a bug or for lack of memory: ${error.message}`, { cause: error });
    }
  }

  /** The same where 0 means that it failed. */
  #ask(code, name, ...numbers) {
    const answer = this.#run(name, ...numbers);
    if (answer === 0) throw new VitError(code, this.#text());
    return answer;
  }

  #text() {
    const bytes = this.#view(Uint8Array, this.#run("vit_text"), this.#run("vit_text_len"));
    return new TextDecoder().decode(bytes.slice());
  }

  #result() {
    return this.#view(Float32Array, this.#run("vit_result"), this.#run("vit_result_len")).slice();
  }

  #input(bytes) {
    const place = this.#ask("memory", "vit_input", bytes.length);
    this.#view(Uint8Array, place, bytes.length).set(bytes);
  }

  /** Memory for the first bytes of the model's file: a function that writes bytes at an offset. */
  file(length) {
    const place = this.#ask("memory", "vit_file", length);
    return (bytes, offset) => this.#view(Uint8Array, place + offset, bytes.length).set(bytes);
  }

  /** What the header in the first bytes of the file says; null if there have to be more of them. */
  header(length) {
    if (this.#ask("file", "vit_header", length) === 2) return null;
    const numbers = this.#view(Uint32Array, this.#run("vit_facts"), FACTS.length);
    const facts = Object.fromEntries(FACTS.map((name, index) => [name, numbers[index]]));
    const [precision, level, ...labels] = this.#text().split("\0").slice(0, -1);
    return { ...facts, precision, level, labels };
  }

  open() {
    this.#ask("memory", "vit_open");
  }

  /** Prepares a picture: {data, width, height} with RGBA samples, or the bytes of a file. */
  picture(picture) {
    if (picture instanceof Uint8Array) {
      this.#input(picture);
      return this.#ask("picture", "vit_picture_file");
    }
    this.#input(new Uint8Array(picture.data.buffer, picture.data.byteOffset, picture.data.byteLength));
    return this.#ask("picture", "vit_picture_rgba", picture.height, picture.width);
  }

  /** Takes normalised pixels as they are. */
  pixels(pixels) {
    this.#input(new Uint8Array(pixels.buffer, pixels.byteOffset, pixels.byteLength));
    this.#ask("argument", "vit_pixels");
  }

  /** A forward pass: the output of that name. */
  run(output) {
    this.#input(new TextEncoder().encode(output));
    this.#ask("model", "vit_run");
    return this.#result();
  }

  /** Pairs of a class and its probability, of the logits that were computed last. */
  probabilities() {
    this.#ask("model", "vit_probabilities");
    return this.#result();
  }

  attention(layer, head, at) {
    const [x, y] = at ?? [NaN, NaN];
    const from = this.#ask("model", "vit_attention", layer, head, y, x);
    return { map: this.#result(), from: ["class", "pool", "patches", "patch"][from - 1] };
  }

  colours() {
    this.#ask("model", "vit_colours");
    return this.#result();
  }

  /** Paints "picture", "attention" or "colours": {data, width, height}. */
  paint(what, { size = 0, smooth = true, alpha = what === "colours" ? 1 : 0.6 } = {}) {
    const number = ["picture", "attention", "colours"].indexOf(what);
    this.#ask("model", "vit_paint", number, size, Number(smooth), alpha);
    const [height, width] = this.#result();
    const data = this.#view(Uint8ClampedArray, this.#run("vit_painted"), height * width * 4).slice();
    return { data, width, height };
  }
}
