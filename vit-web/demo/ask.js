// Calls of the worker, and what becomes of them if it does not answer.

/** An answer that takes longer than this many milliseconds does not come. */
const PATIENCE = 120_000;

let [worker, next] = [null, 0];
const waiting = new Map();

function fail(code, message) {
  for (const { reject } of waiting.values()) reject(Object.assign(new Error(message), { code }));
  waiting.clear();
}

function start() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const call = waiting.get(id);
    if (!call) return;
    waiting.delete(id);
    if (error) call.reject(Object.assign(new Error(error.message), { code: error.code }));
    else call.resolve(answer);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    const why = event.message ? `: ${event.message}` : "; the browser may be too old, or a file missing";
    fail("worker", `The page's worker did not start${why}`);
  };
}

/** Stops the worker, whatever it does, and starts another. */
export function restart() {
  worker?.terminate();
  fail("stuck", "The computation was stopped");
  start();
}

/** Calls one of the functions in worker.js. */
export function ask(call, options = {}, transfer = []) {
  if (worker === null) start();
  const id = next++;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      waiting.delete(id);
      reject(Object.assign(new Error("The computation took too long, and was stopped"), { code: "stuck" }));
    }, PATIENCE);
    const end = (settle) => (value) => {
      clearTimeout(timer);
      settle(value);
    };
    waiting.set(id, { resolve: end(resolve), reject: end(reject) });
    worker.postMessage({ id, call, ...options }, transfer);
  });
}
