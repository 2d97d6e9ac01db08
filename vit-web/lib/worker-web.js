// Workers in browsers; bundlers find their script by this expression.

/** Starts a helper: a promise that it is ready, and a function that ends it. */
export function startWorker(task) {
  const worker = new Worker(new URL("./helper-web.js", import.meta.url), { type: "module" });
  const ready = new Promise((done, failed) => {
    worker.onmessage = ({ data }) => (data ? done() : failed(new Error("the memory cannot be shared with it")));
    worker.onerror = (event) => {
      event.preventDefault();
      failed(new Error(event.message || "its script cannot be loaded"));
    };
  });
  worker.postMessage(task);
  return { ready, end: () => worker.terminate() };
}
