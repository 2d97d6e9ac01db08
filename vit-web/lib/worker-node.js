// Workers in Node.
import { Worker } from "node:worker_threads";

/** Starts a helper: a promise that it is ready, and a function that ends it. */
export function startWorker(task) {
  // Without the options of this process, which may be for its own script.
  const worker = new Worker(new URL("./helper-node.js", import.meta.url), { workerData: task, execArgv: [] });
  const ready = new Promise((done, failed) => {
    worker.once("message", done);
    worker.on("error", failed);
    worker.once("exit", () => failed(new Error("it has ended")));
  });
  // From then on the process need not wait for it.
  ready.then(() => worker.unref(), () => {});
  return { ready, end: () => worker.terminate() };
}
