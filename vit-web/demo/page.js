// The page: what it shows comes from worker.js, which computes.
import { ask, restart } from "./ask.js";

const at = (id) => document.getElementById(id);
const [stage, status, bars, facts, video] = ["stage", "status", "bars", "facts", "video"].map(at);
const SAMPLES = [
  ["ankle-boot-0", "ankle boot"], ["bag-18", "bag"], ["coat-6", "coat"], ["dress-13", "dress"], ["pullover-1", "pullover"],
  ["sandal-8", "sandal"], ["shirt-4", "shirt"], ["sneaker-9", "sneaker"], ["t-shirt-top-19", "T-shirt"], ["trouser-2", "trousers"],
];
/** A picture file of more bytes is not tried. */
const MOST_BYTES = 1 << 28;

let model = null;
let source = null; // What the model was loaded from.
let image = null; // What is shown, unless it is the camera.
let first = null; // When the first result was there.
let live = null; // The camera's stream.
const found = {}; // Figures of the last results.

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

/** Runs what a person has asked for; an error becomes a message. Of several of one kind only the last one counts. */
const turns = {};
async function attempt(kind, busy, action) {
  const turn = (turns[kind] = (turns[kind] ?? 0) + 1);
  const isLast = () => turns[kind] === turn;
  if (busy) say(busy);
  try {
    await action(isLast);
    if (busy && isLast() && !status.classList.contains("bad")) say("Ready.");
  } catch (error) {
    const text = `${error.message[0].toUpperCase()}${error.message.slice(1)}`;
    if (isLast()) say(/[.!?]$/.test(text) ? text : `${text}.`, true);
    if (error.code === "stuck" || error.code === "bug") reload();
  }
}

const number = (x) => x.toLocaleString("en", { maximumFractionDigits: x < 100 ? 1 : 0 });
const bytes = (x) => (x < 1e6 ? `${number(x / 1e3)} KB` : `${number(x / 1e6)} MB`);

function showFacts() {
  const rows = [
    ["Forward pass", found.ms === undefined ? "" : `${number(found.ms)} ms`],
    ["With attention", found.showMs === undefined ? "" : `${number(found.showMs)} ms`],
    ["Frames", found.rate === undefined ? "" : `${number(found.rate)} per second`],
    ["First result", first === null ? "" : `${number(first)} ms after the page was opened`],
    ["Model", model && `${model.precision}, ${bytes(model.bytes.file)}; level ${model.level}`],
    ["Memory", found.memory === undefined ? "" : bytes(found.memory)],
  ];
  facts.replaceChildren(
    ...rows
      .filter(([, text]) => text)
      .flatMap(([name, text]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: text }),
      ]),
  );
}

function showClasses(classes) {
  bars.replaceChildren(
    ...classes.map(({ index, label, probability }) => {
      const row = document.createElement("li");
      row.style.setProperty("--share", probability);
      const name = Object.assign(document.createElement("span"), { textContent: label ?? `class ${index}` });
      const share = Object.assign(document.createElement("span"), { textContent: `${(probability * 100).toFixed(1)} %` });
      row.append(name, share);
      return row;
    }),
  );
}

const mode = () => document.querySelector("input[name=mode]:checked").value;

/** What the sliders say, in words. */
function showSliders() {
  const outputs = {
    layer: `${at("layer").value} of ${model?.depth ?? "–"}`,
    head: at("head").value === "0" ? "mean" : `${at("head").value} of ${model?.heads ?? "–"}`,
    alpha: `${at("alpha").value} %`,
  };
  for (const [id, text] of Object.entries(outputs)) {
    document.querySelector(`output[for=${id}]`).textContent = text;
    at(id).setAttribute("aria-valuetext", text);
  }
  for (const id of ["layer", "head"]) at(id).disabled = mode() !== "attention";
  at("alpha").disabled = mode() === "picture";
}

/** Paints the picture as the controls say. */
async function show(isLast = () => true) {
  const options = { mode: mode(), layer: Number(at("layer").value), head: Number(at("head").value) };
  const { painted, ms, from, memory } = await ask("show", { ...options, alpha: at("alpha").value / 100 });
  if (!painted || !isLast()) return;
  [stage.width, stage.height] = [painted.width, painted.height];
  stage.getContext("2d").putImageData(new ImageData(painted.data, painted.width, painted.height), 0, 0);
  const whose = { class: "the class token", pool: "the pool's query", patches: "all patches", patch: "a patch" }[from];
  const what = {
    attention: `Attention of ${whose} in layer ${options.layer}, ${options.head ? `head ${options.head}` : "mean of the heads"}`,
    colours: "Features of the patches as colours",
    picture: "The picture; what the model does not see is dark",
  }[options.mode];
  stage.setAttribute("aria-label", what);
  Object.assign(found, { showMs: options.mode === "picture" ? undefined : ms, memory });
}

/** Computes a picture and shows it. */
async function compute(picture, isLast) {
  const transfer = picture instanceof ImageBitmap ? [picture] : [];
  const { classes, logits, ms } = await ask("picture", { image: picture }, transfer);
  if (classes) {
    showClasses(classes);
    document.documentElement.dataset.logits = JSON.stringify(Array.from(logits));
  }
  found.ms = ms;
  await show(isLast);
  first ??= performance.now();
  showFacts();
}

async function load(from, isLast) {
  model = await ask("load", { source: from });
  if (!isLast()) return;
  source = from;
  const isOwn = typeof from === "string";
  for (const input of document.querySelectorAll("input[name=precision]")) {
    input.checked = isOwn && input.value === model.precision;
  }
  at("about").hidden = !isOwn;
  const headless = model.classes === 0;
  [bars.hidden, at("headless").hidden] = [headless, !headless];
  [at("layer").max, at("head").max] = [model.depth, model.heads];
  [at("layer").value, at("head").value] = [model.depth, 0];
  bars.replaceChildren();
  delete found.ms;
  showSliders();
  showFacts();
  if (image !== null && live === null) await compute(image, isLast);
}

/** After the worker was stopped. */
function reload() {
  restart();
  model = null;
  if (source === null) return;
  image = null;
  const text = status.textContent;
  attempt("load", "", async (isLast) => {
    await load(source, isLast);
    // What went wrong stays to be read.
    if (isLast()) say(text, true);
  });
}

async function sample(name, isLast) {
  const response = await fetch(`samples/${name}.png`);
  if (!response.ok) throw new Error(`samples/${name}.png: ${response.status}`);
  image = await response.blob();
  await compute(image, isLast);
}

/** A file that was dropped or chosen: a packed model, or a picture. */
async function open(file) {
  stopCamera();
  const magic = new TextDecoder("latin1").decode(await file.slice(0, 4).arrayBuffer());
  if (magic === "GGUF") {
    return attempt("load", `Loading ${file.name} …`, (isLast) => load(file, isLast));
  }
  if (/\.(gguf|safetensors|bin|pth|onnx)$/i.test(file.name)) {
    return say(`${file.name} is no packed model: 'vit convert --model DIR --out m.gguf' makes one.`, true);
  }
  if (file.size > MOST_BYTES) return say(`${file.name} is too large for a picture: ${bytes(file.size)}.`, true);
  return attempt("picture", `Computing ${file.name} …`, async (isLast) => {
    await compute(file, isLast);
    image = file;
  });
}

async function startCamera() {
  if (!navigator.mediaDevices) throw new Error("The browser gives the camera to secure pages alone (https or localhost)");
  live = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 640 } });
  at("camera").setAttribute("aria-pressed", "true");
  video.srcObject = live;
  await video.play();
  say("Camera.");
  let before = performance.now();
  while (live !== null) {
    // The next frame is taken when the one before is shown: none waits in a queue.
    await new Promise(requestAnimationFrame);
    if (live === null || video.videoWidth === 0) continue;
    await compute(await createImageBitmap(video), () => true);
    const now = performance.now();
    found.rate = 1000 / (now - before);
    before = now;
  }
}

function stopCamera() {
  live?.getTracks().forEach((track) => track.stop());
  [live, video.srcObject] = [null, null];
  delete found.rate;
  at("camera").setAttribute("aria-pressed", "false");
}

at("camera").addEventListener("click", () => {
  if (live !== null) return stopCamera();
  attempt("picture", "Starting the camera …", startCamera).finally(stopCamera);
});
at("file").addEventListener("change", ({ target }) => {
  if (target.files.length > 0) open(target.files[0]);
  target.value = "";
});
for (const id of ["layer", "head", "alpha"]) {
  at(id).addEventListener("input", () => {
    showSliders();
    attempt("show", "", (isLast) => show(isLast).then(showFacts));
  });
}
for (const input of document.querySelectorAll("input[name=mode]")) {
  input.addEventListener("change", () => {
    at("alpha").value = mode() === "colours" ? 100 : 60;
    showSliders();
    attempt("show", "Computing …", (isLast) => show(isLast).then(showFacts));
  });
}
for (const input of document.querySelectorAll("input[name=precision]")) {
  input.addEventListener("change", () => {
    attempt("load", `Loading fashion-vit in ${input.value} …`, (isLast) =>
      load(`models/fashion-vit-${input.value}.gguf`, isLast));
  });
}
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) open(file);
  else say("Drop a file: a picture, or a packed model.", true);
});

for (const [name, words] of SAMPLES) {
  const picture = Object.assign(new Image(), { src: `samples/${name}.png`, alt: words });
  const button = Object.assign(document.createElement("button"), { type: "button", title: words });
  button.append(picture);
  button.addEventListener("click", () => {
    stopCamera();
    attempt("picture", "Computing …", (isLast) => sample(name, isLast));
  });
  at("samples").append(button);
}

showSliders();
attempt("load", "Loading fashion-vit …", async (isLast) => {
  await load("models/fashion-vit-int8.gguf", isLast);
  if (image === null && live === null) await sample(SAMPLES[0][0], isLast);
}).then(() => navigator.serviceWorker && keep().catch((error) => console.warn(`Nothing is kept for later: ${error.message}`)));

// Later visits need no network.
async function keep() {
  const { active } = await navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  // The browser may not have listed the model yet: its last bytes have just come.
  const models = typeof source === "string" ? [new URL(source, location).href] : [];
  const all = [location.href, ...loaded, ...(model?.loaded ?? []), ...models];
  const own = all.filter((url) => url.startsWith(location.origin));
  active.postMessage([...new Set(own)]);
}
