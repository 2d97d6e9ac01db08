// What the types say, as a program uses them: `tsc` checks it.
import { load, plan, supported, VitError, type Build, type Model } from "../index.js";

const build: Build | null = supported();
const { bytes } = await plan(new URL("https://example.org/m.gguf"));
const model: Model = await load("m.gguf", { memory: bytes.memory, build: build ?? undefined, progress: (read, of) => void (read / of), threads: 2 });
const samples = { data: new Uint8ClampedArray(4), width: 1, height: 1 };
const prepared = await model.prepare(samples);
const { classes, logits, ms, decodedBy } = await model.classify(prepared, { top: 3 });
const label: string | null = classes[0]!.label;
const sum: number = logits.reduce((a, b) => a + b, 0) + ms;
const { map, painted } = await model.attention(new Uint8Array(8), { layer: 2, head: 1, at: [3, 4], paint: { size: 448 } });
if (painted) new ImageData(painted.data, painted.width, painted.height);
await model.embed(new ImageData(1, 1));
await model.colours(document.createElement("canvas"));
// @ts-expect-error: a name is no picture
await model.classify(7);
// @ts-expect-error: there is no such build
await load("m.gguf", { build: "avx512" });
const threads: number = (await plan("m.gguf", { threads: 4 })).threads;
if (decodedBy === "browser") throw new VitError();
void [label, sum, map, threads];
model.close();
