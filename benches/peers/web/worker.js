// One engine in Node as a worker of `web.py`: `worker.js ENGINE PRECISION FOLDER THREADS`, then requests on stdin and answers on
// stdout, one per line, as `../rust/src/protocol.rs` describes.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Each engine loads the model and returns its version, how it runs, and a function that gives the logits. */
const engines = {
  "vit-simd128": (...task) => vit("simd128", ...task),
  "vit-relaxed": (...task) => vit("relaxed-simd", ...task),

  async onnxruntime(precision, folder, threads, pixels) {
    const ort = await import("onnxruntime-web");
    ort.env.wasm.numThreads = threads;
    const model = join(folder, precision === "int8" ? "int8/dynamic.onnx" : "model.onnx");
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const session = await ort.InferenceSession.create(readFileSync(model), options);
    const inputs = { pixels: new ort.Tensor("float32", pixels, [1, 3, 224, 224]) };
    const infer = async () => (await session.run(inputs)).logits.data;
    return { version: ort.env.versions.web, about: `wasm, SIMD, threads: ${threads}, all graph optimisations`, infer };
  },
};

async function vit(build, precision, folder, threads, pixels) {
  const { load } = await import("../../../vit-web/lib/small-node.js");
  const { version } = JSON.parse(readFileSync(new URL("../../../vit-web/package.json", import.meta.url)));
  const model = await load(join(folder, `${precision}.gguf`), { build, threads });
  return { version, about: `level ${model.level}`, infer: () => model.run(pixels, "logits") };
}

/** A .npy file of f32, read and written. */
function npy(path) {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
}

function write(path, floats) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${floats.length},), }`.padEnd(117) + "\n";
  const start = Buffer.alloc(10);
  start.write("\x93NUMPY\x01\0", 0, "latin1");
  start.writeUInt16LE(header.length, 8);
  writeFileSync(path, Buffer.concat([start, Buffer.from(header), Buffer.from(new Float32Array(floats).buffer)]));
}

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
const [engine, precision, folder, threads] = process.argv.slice(2);
try {
  const { version, about, infer } = await engines[engine](precision, folder, Number(threads), npy(join(folder, "pixels.npy")));
  say({ version, about, flops: null });
  let logits;
  for await (const line of createInterface({ input: process.stdin })) {
    const [request, argument] = line.split(" ");
    if (request === "run") {
      const ms = [];
      for (let i = 0; i < Number(argument); i++) {
        const start = performance.now();
        logits = await infer();
        ms.push(performance.now() - start);
      }
      say({ ms });
    } else if (request === "output") {
      write(argument, logits);
      say({});
    } else break;
  }
} catch (error) {
  say({ error: String(error) });
  throw error;
}
