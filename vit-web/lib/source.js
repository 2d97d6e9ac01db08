// Where a model's file comes from, and how it gets into the module's memory.
import { VitError } from "./module.js";

/** Bytes that are made room for first: most headers are shorter. */
const FIRST = 1 << 16;
/** No header is longer: it has some hundred bytes for each tensor, and the names of the classes. */
const LONGEST_HEADER = 1 << 26;

/** A source as a stream of bytes, in pieces; `fetch` opens URLs. */
async function stream(source, fetch) {
  if (typeof source === "string" || source instanceof URL) return fetch(source);
  if (source instanceof ArrayBuffer) return pieces(new Uint8Array(source));
  if (ArrayBuffer.isView(source)) return pieces(new Uint8Array(source.buffer, source.byteOffset, source.byteLength));
  if (typeof Blob === "function" && source instanceof Blob) return source.stream();
  if (typeof Response === "function" && source instanceof Response) return body(source);
  if (typeof source?.getReader === "function") return source;
  throw new VitError("argument", "a model is loaded from a URL, bytes, a Blob, a Response or a ReadableStream");
}

function pieces(bytes) {
  return new ReadableStream({
    start(controller) {
      if (bytes.length > 0) controller.enqueue(bytes);
      controller.close();
    },
  });
}

/** The body of a response that has one. */
export function body(response) {
  if (!response.ok) throw new VitError("file", `${response.url}: ${response.status} ${response.statusText}`.trim());
  return response.body;
}

/**
 * Reads a header into the memory of an instance, and everything behind it if `admit` does not return false for what it
 * says. No more than a piece of the stream is held outside of that memory. Returns what the header says.
 */
export async function read(instance, source, fetch, { admit, progress, signal }) {
  let reader;
  let [facts, filled, room] = [null, 0, FIRST];
  try {
    reader = (await stream(source, fetch)).getReader();
    let write = instance.file(room);
    for (;;) {
      signal?.throwIfAborted();
      const { done, value } = await reader.read();
      let piece = value ?? new Uint8Array(0);
      do {
        const part = piece.subarray(0, room - filled);
        write(part, filled);
        [filled, piece] = [filled + part.length, piece.subarray(part.length)];
        // The first bytes alone tell what is no model.
        if (facts === null && (filled >= 4 || done)) {
          facts = instance.header(filled);
          if (facts !== null) {
            if (admit(facts) === false) return facts;
            [room, write] = [facts.file, instance.file(facts.file)];
          } else if (filled === room) {
            if (room >= LONGEST_HEADER) throw new VitError("file", "the file is damaged: its header does not end");
            [room, write] = [room * 4, instance.file(room * 4)];
          }
        }
        if (facts !== null && filled + piece.length > facts.file) {
          throw new VitError("file", `the file is damaged: it goes on behind its ${facts.file} bytes`);
        }
      } while (piece.length > 0);
      if (facts !== null) progress?.(filled, facts.file);
      if (done) break;
    }
  } catch (error) {
    throw error instanceof VitError || error?.name === "AbortError"
      ? error
      : new VitError("file", `the model cannot be read: ${error.message}`, { cause: error });
  } finally {
    // What was not read is not wanted.
    reader?.cancel().catch(() => {});
  }
  if (facts === null || filled < facts.file) {
    throw new VitError("file", `the file is truncated: it ends after ${filled} bytes`);
  }
  return facts;
}
