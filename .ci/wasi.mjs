// Runs a WebAssembly program in node: node wasi.mjs PROGRAM.wasm [ARGUMENT...]
// It gets the variables VIT_* and PROPTEST_*, and the folder that it is started in.
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const [program, ...args] = process.argv.slice(2);
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(VIT|PROPTEST)_/.test(name)));
const preopens = { [process.cwd()]: process.cwd() };
const wasi = new WASI({ version: "preview1", args: [program, ...args], env, preopens, returnOnExit: true });
const { instance } = await WebAssembly.instantiate(await readFile(program), wasi.getImportObject());
process.exitCode = wasi.start(instance);
