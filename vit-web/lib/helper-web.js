// The script of a worker in browsers.
import { help } from "./help.js";

onmessage = ({ data }) => help(data, () => postMessage(true));
// Memory that cannot be shared with this worker.
onmessageerror = () => postMessage(false);
