// URLs and paths in Node.
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { Readable } from "node:stream";

import { body } from "./source.js";

/** Whether it is a URL that `fetch` takes; all else is a file. */
const isRemote = (url) => /^(https?|data|blob):/.test(String(url));

export const fetchStream = async (url) =>
  isRemote(url) ? body(await fetch(url)) : Readable.toWeb(createReadStream(asPath(url)));

export const fetchBytes = (url) => readFile(url);

const asPath = (url) => (typeof url === "string" && url.startsWith("file:") ? new URL(url) : url);
