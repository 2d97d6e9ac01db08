// For Node and its kin, without decoders.
import { make } from "./vit.js";
import { fetchBytes, fetchStream } from "./fetch-node.js";

export const { load, plan } = make(
  {
    simd128: () => new URL("../wasm/small-simd128.wasm", import.meta.url),
    "relaxed-simd": () => new URL("../wasm/small-relaxed-simd.wasm", import.meta.url),
  },
  fetchStream,
  fetchBytes,
);
export { supported, VitError } from "./vit.js";
