// For browsers, and for bundlers: they find the modules by these expressions.
import { make } from "./vit.js";
import { fetchBytes, fetchStream } from "./fetch-web.js";
import { startWorker } from "./worker-web.js";

export const { load, plan } = make({
  binaries: {
    simd128: () => new URL("../wasm/vit-simd128.wasm", import.meta.url),
    "relaxed-simd": () => new URL("../wasm/vit-relaxed-simd.wasm", import.meta.url),
  },
  threaded: {
    simd128: () => new URL("../wasm/vit-simd128-threads.wasm", import.meta.url),
    "relaxed-simd": () => new URL("../wasm/vit-relaxed-simd-threads.wasm", import.meta.url),
  },
  fetchStream,
  fetchBytes,
  startWorker,
});
export { supported, VitError } from "./vit.js";
