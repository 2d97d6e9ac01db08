// Threads: workers with instances of the module of their own, which share the memory of the model's.
import { HELPER_BYTES, VitError } from "./module.js";

// In pages of 64 KiB: what the modules are linked for (vit-web/build), and the least that is of use.
const [INITIAL, MOST, LEAST] = [18, 65536, 1024];

/** The most that a model's memory has more with threads: their stacks, and pages that are not full. */
export const bytesFor = (threads) => (threads > 1 ? (threads - 1) * HELPER_BYTES + (2 << 16) : 0);

/** Refuses a number of threads that is none. */
export function checkNumber(threads) {
  if (!Number.isInteger(threads) || threads < 1 || threads > 64) {
    throw new VitError("argument", "threads is a whole number from 1 to 64");
  }
}

/** Refuses to start threads where the environment does not let them share memory, or this thread wait for them. */
export function checkEnvironment() {
  if (typeof SharedArrayBuffer !== "function" || globalThis.crossOriginIsolated === false) {
    const headers = "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp";
    throw new VitError("threads", `threads need SharedArrayBuffer, which pages have that are served with ${headers}`);
  }
  try {
    // Where waiting is not allowed, it is an error even if there is nothing to wait for.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
  } catch (error) {
    const message = "with threads a model is loaded in a Worker: the main thread of a page must not wait for others";
    throw new VitError("threads", message, { cause: error });
  }
}

/** Memory for a model and its threads. Some engines reserve the largest size at once, and refuse 4 GiB. */
export function sharedMemory() {
  for (let maximum = MOST; ; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: INITIAL, maximum, shared: true });
    } catch (error) {
      if (maximum > LEAST) continue;
      throw new VitError("memory", `there is no memory to be shared: ${error.message}`, { cause: error });
    }
  }
}
