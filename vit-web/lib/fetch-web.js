// URLs in browsers.
import { body } from "./source.js";

export const fetchStream = async (url) => body(await fetch(url));

export async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`.trim());
  return response.arrayBuffer();
}
