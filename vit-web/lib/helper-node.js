// The script of a worker in Node.
import { parentPort, workerData } from "node:worker_threads";

import { help } from "./help.js";

help(workerData, () => parentPort.postMessage(true));
