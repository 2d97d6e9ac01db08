/** What can go wrong. */
export class VitError extends Error {
  /**
   * - `simd`: the engine has no WebAssembly SIMD
   * - `file`: the model cannot be read, is damaged, or is no packed model
   * - `memory`: the system does not give the memory, or it is above the limit that was set
   * - `threads`: more than one cannot be had here: no SharedArrayBuffer, the main thread of a page, or a worker that does
   *   not start
   * - `picture`: the picture cannot be decoded or prepared
   * - `model`: the model has no such output
   * - `argument`: an argument is of a wrong kind
   * - `closed`: the model was closed
   * - `bug`: the module stopped; its model is closed
   */
  readonly code: "simd" | "file" | "memory" | "threads" | "picture" | "model" | "argument" | "closed" | "bug";
}

/** The builds of the module. */
export type Build = "simd128" | "relaxed-simd";

/** The build that this engine can run; null without SIMD, where nothing can be loaded. */
export function supported(): Build | null;

/**
 * Where a model's file comes from; `vit convert` writes such files. A string is a URL, in Node also the path of a file. It
 * is read once, piece by piece, into the memory that it is used in.
 */
export type Source = string | URL | ArrayBuffer | ArrayBufferView | Blob | Response | ReadableStream<Uint8Array>;

/** RGBA samples: `ImageData` and its kin. Alpha is dropped. */
export interface Samples {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/**
 * A picture. The bytes of a PNG, JPEG, WebP, GIF, BMP or TIFF file are decoded in the module, with the numbers of the
 * command line `vit`; `vit-web/small` has no decoders. The browser decodes every other format, and whatever is drawn by a
 * canvas, with numbers of its own: `decodedBy` says so.
 */
export type Picture = Samples | ArrayBuffer | ArrayBufferView | Blob | CanvasImageSource | Prepared;

/** A picture that {@link Model.prepare} has decoded and prepared. */
export interface Prepared {
  readonly decodedBy: DecodedBy;
}

/** Who decoded a picture: the module, the browser, or nobody, as it came as samples. */
export type DecodedBy = "vit" | "browser" | null;

/** What a model is, and what memory it takes. */
export interface Info {
  readonly precision: "f32" | "f16" | "bf16" | "int8" | "int4";
  /** The level of the kernels that it runs on. */
  readonly level: string;
  /** The names of the classes; empty if the file has none. */
  readonly labels: readonly string[];
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  readonly patchHeight: number;
  readonly patchWidth: number;
  /** Rows and columns of patches. */
  readonly rows: number;
  readonly columns: number;
  readonly tokens: number;
  readonly dim: number;
  readonly depth: number;
  readonly heads: number;
  /** Heads of the attention pool; 0 without one. */
  readonly poolHeads: number;
  /** 0 without a classifier. */
  readonly classes: number;
  /** Elements of the embedding; 0 without one. */
  readonly embedding: number;
  /** How many threads compute. */
  readonly threads: number;
  /** Whether the file says how pictures are prepared. */
  readonly prepares: boolean;
  readonly bytes: {
    /** The file, and the weights in it. */
    readonly file: number;
    readonly weights: number;
    /** What a forward pass needs beside them. */
    readonly arena: number;
    /** What a picture becomes. */
    readonly input: number;
    /** At most what all of the module's memory has after a small picture was classified, with the stacks of threads. */
    readonly memory: number;
  };
}

/** How something is painted over the picture. */
export interface Paint {
  /** The longest side in pixels; 0 for the picture's own, but at least 448 and at most 1024. */
  size?: number;
  /** Interpolate between patches: true by default. */
  smooth?: boolean;
  /** The colours' share, from 0 to 1: 0.6 for attention, 1 for colours. */
  alpha?: number;
}

/** Samples of a picture that was painted, as `new ImageData(data, width, height)` takes them. */
export interface Painted {
  readonly data: Uint8ClampedArray<ArrayBuffer>;
  readonly width: number;
  readonly height: number;
}

/** What every result has. */
export interface Timed {
  /** Milliseconds of the forward pass, without decoding and preparing the picture. */
  readonly ms: number;
  readonly decodedBy: DecodedBy;
}

export interface Class {
  readonly index: number;
  readonly label: string | null;
  readonly probability: number;
}

export interface Classification extends Timed {
  /** The most probable first. */
  readonly classes: readonly Class[];
  readonly logits: Float32Array;
}

export interface Embedding extends Timed {
  readonly embedding: Float32Array;
}

export interface Attention extends Timed {
  readonly rows: number;
  readonly columns: number;
  /** What each patch gets, [rows, columns]. */
  readonly map: Float32Array;
  /** Whose attention it is. */
  readonly from: "class" | "pool" | "patches" | "patch";
  readonly painted?: Painted;
}

export interface Colours extends Timed {
  readonly rows: number;
  readonly columns: number;
  /** Red, green and blue from 0 to 1, [rows, columns, 3]; NaN for the background. */
  readonly colours: Float32Array;
  readonly painted?: Painted;
}

/** A model in memory. Its methods may be called while others have not ended. */
export interface Model extends Info {
  /** Bytes of all memory that the module has now. */
  readonly memoryBytes: number;
  /** Decodes and prepares a picture, for several calls with it. */
  prepare(image: Picture): Promise<Prepared>;
  classify(image: Picture, options?: { top?: number }): Promise<Classification>;
  embed(image: Picture): Promise<Embedding>;
  /**
   * An attention map, as `vit attend` makes it. Layers and heads are counted from 1; 0, the default, is the last layer and
   * the mean of the heads. `at` is a pixel [x, y] of the picture, whose patch's attention is shown: by default it is that of
   * the class token, of an attention pool, or of all patches, as the model pools.
   */
  attention(
    image: Picture,
    options?: { layer?: number; head?: number; at?: [number, number] | null; paint?: Paint | null },
  ): Promise<Attention>;
  /** The features of the patches as colours: principal components, as `vit attend --pca` computes them. */
  colours(image: Picture, options?: { paint?: Paint | null }): Promise<Colours>;
  /** The picture itself, with what the model does not see of it dimmed. */
  paint(image: Picture, options?: Pick<Paint, "size">): Promise<Timed & { readonly painted: Painted }>;
  /**
   * An output by its name ("logits", "embedding", "class", "patches", "layer:3", "attention:1", …) for pixels that are
   * prepared already, [channels, height, width].
   */
  run(pixels: Float32Array, output: string): Promise<Float32Array>;
  /** Ends the workers, and lets the memory go. */
  close(): void;
}

export interface LoadOptions {
  /** The build; by default the best that the engine can run. */
  build?: Build;
  /**
   * How many threads compute, the caller's and workers that the package starts: from 1, the default, to 64. More than one
   * need SharedArrayBuffer, which a page has with the headers `Cross-Origin-Opener-Policy: same-origin` and
   * `Cross-Origin-Embedder-Policy: require-corp`, and a caller that may wait: in a page a Worker. The results are the same
   * to the bit. Close such a model: otherwise its workers stay until it is found to be garbage.
   */
  threads?: number;
  /** The most bytes that the model may need: above, nothing but its header is read. */
  memory?: number;
  /** Called as the file is read. */
  progress?: (bytes: number, of: number) => void;
  signal?: AbortSignal;
}

/** Loads a model. */
export function load(source: Source, options?: LoadOptions): Promise<Model>;

/** Reads the header alone: what the model is, and the memory that it will need. */
export function plan(source: Source, options?: Pick<LoadOptions, "build" | "threads" | "signal">): Promise<Info>;
