// Loads models and computes, so that the page never waits.
import { load } from "./vit/lib/small-web.js";

/** The longest side of what is painted: enough for the page. */
const SIDE = 448;

let [model, picture] = [null, null];

const calls = {
  /** Replaces the model. `source` is a URL or a Blob. The one before stays if it fails. */
  async load({ source }) {
    const next = await load(source);
    model?.close();
    [model, picture] = [next, null];
    const { precision, level, labels, depth, heads, classes, bytes } = model;
    const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
    return { precision, level, labels, depth, heads, classes, bytes, loaded };
  },

  /** Takes a picture: a Blob, or an ImageBitmap of the camera. */
  async picture({ image }) {
    picture = null;
    picture = await model.prepare(image);
    if (model.classes === 0) return {};
    const { classes, logits, ms } = await model.classify(picture, { top: 5 });
    return { classes, logits, ms };
  },

  /** Paints the picture, the attention of a layer and a head over it, or the colours of its patches. */
  async show({ mode, layer, head, alpha }) {
    if (picture === null) return {};
    const paint = { size: SIDE, alpha };
    const shown = {
      picture: () => model.paint(picture, { size: SIDE }),
      attention: () => model.attention(picture, { layer, head, paint }),
      colours: () => model.colours(picture, { paint }),
    };
    const { painted, ms, from } = await shown[mode]();
    return { painted, ms, from, memory: model.memoryBytes, transfer: [painted.data.buffer] };
  },
};

onmessage = async ({ data: { id, call, ...options } }) => {
  try {
    if (call !== "load" && model === null) throw new Error("no model is loaded");
    const { transfer = [], ...answer } = await calls[call](options);
    postMessage({ id, answer }, transfer);
  } catch (error) {
    postMessage({ id, error: { code: error.code ?? error.name, message: error.message } });
  }
};
