// The page: takes a picture, has it restored by the worker, and shows before and after.

const MAX_MEGAPIXELS = 16;
const LOST = "The network could not be loaded. Check the connection; choose a picture to try again.";
const one = (id) => document.getElementById(id);
const [before, after, frame] = [one("before"), one("after"), one("frame")];

// Empty, or why this browser cannot restore pictures.
const lacking = ["WebAssembly", "DecompressionStream", "OffscreenCanvas"].filter((name) => !(name in globalThis));
const unable = lacking.length ? `This browser cannot restore pictures here: it is too old for ${lacking.join(" and ")}, ` +
  "or has that switched off. Please update it, or use another one." : "";

let worker = null, isReady = false, shown = null, waiting = null, began = null, latest = 0, link = null, drawing = 0;

function start() {
  const started = worker = new Worker(new URL("engine.js", import.meta.url), {type: "module"});
  const hear = (data) => started === worker && ({ready, lost, progress, restored, failed})[data.kind](data);
  started.onmessage = ({data}) => hear(data);
  started.onerror = ({message = "engine.js"}) => hear({kind: isReady ? "failed" : "lost", message});
  one("engine").textContent = "Loading the network";
}

function stop() {
  worker.terminate();
  worker = null;
  isReady = false;
  one("engine").textContent = "The network is not loaded";
}

function ready({name}) {
  isReady = true;
  one("engine").textContent = `Ready: ${name}`;
  if (waiting) one("doing").textContent = "Restoring";
}

// The next picture starts another worker: this one would remember what it could not load.
function lost({message}) {
  console.info(`The network could not be loaded: ${message}`);
  stop();
  one("status").textContent = "";
  say(LOST);
  finish();
}

// Steps take about as long each, so that those after the first tell how long the others will take.
function progress({done, total}) {
  const now = performance.now(), left = began ? ((now - began.time) / (done - began.done)) * (total - done) : 0;
  began ??= {done, time: now};
  one("progress").value = done / total;
  one("doing").textContent = total > 1 ? `Restoring: ${Math.floor((100 * done) / total)}%${nameTime(left)}` : "Restoring";
}

function nameTime(milliseconds) {
  const minutes = Math.round(milliseconds / 60000);
  if (!minutes) return "";
  return `, about ${minutes === 1 ? "a minute" : `${minutes} minutes`} left`;
}

// Whatever the runtime met, it may not have survived.
function failed({message}) {
  say(`This picture could not be restored: ${message}.`);
  one("status").textContent = "";
  stop();
  start();
  finish();
}

function say(text) {
  one("message").textContent = text;
  one("message").hidden = !text;
  if (text) one("message").scrollIntoView({block: "nearest"});
}

function nameKind(kind) {
  return kind === "jpeg" ? "JPEG" : kind[0].toUpperCase() + kind.slice(1).replaceAll("_", " ");
}

async function decode(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) throw new Error(`${file.name || "This file"} is not a picture that this browser can read.`);
  try {
    const megapixels = (bitmap.width * bitmap.height) / 1e6;
    if (megapixels > MAX_MEGAPIXELS) {
      throw new Error(`${file.name} has ${megapixels.toFixed(1)} megapixels, and this page takes up to ${MAX_MEGAPIXELS}.`);
    }
    return {name: file.name || "pasted.png", type: file.type, ...read(bitmap)};
  } finally {
    bitmap.close();
  }
}

// Read a bitmap into three planes; what is wholly transparent takes the mean of what is seen, as it would bleed into it.
function read(bitmap) {
  const {width, height} = bitmap, canvas = new OffscreenCanvas(width, height), size = width * height;
  const context = canvas.getContext("2d", {willReadFrequently: true}), values = new Float32Array(3 * size);
  context.drawImage(bitmap, 0, 0);
  const {data} = context.getImageData(0, 0, width, height);
  const sum = [0, 0, 0];
  let isGrey = true, seen = 0;
  for (let place = 0; place < size; place++) {
    const [red, green, blue, alpha] = [data[4 * place], data[4 * place + 1], data[4 * place + 2], data[4 * place + 3]];
    [values[place], values[size + place], values[2 * size + place]] = [red / 255, green / 255, blue / 255];
    if (!alpha) continue;
    isGrey &&= red === green && green === blue;
    seen++;
    for (let plane = 0; plane < 3; plane++) sum[plane] += values[plane * size + place];
  }
  for (let place = 0; seen && seen < size && place < size; place++) {
    for (let plane = 0; !data[4 * place + 3] && plane < 3; plane++) values[plane * size + place] = sum[plane] / seen;
  }
  return {width, height, levels: data, values, isGrey};
}

// Restore a file, or what a promise brings, unless another is chosen before it is read.
async function take(file) {
  const chosen = ++latest;
  say("");
  let picture;
  try {
    if (unable) throw new Error(unable);
    picture = await decode(await file);
  } catch (error) {
    if (chosen === latest) say(error.message);
    return;
  }
  if (chosen === latest) begin(picture);
}

function begin(picture) {
  if (waiting) cancel();
  if (!worker) start();
  [waiting, began] = [picture, null];
  one("drop").hidden = true;
  for (const id of ["controls", "report"]) one(id).hidden = true;
  one("viewer").hidden = one("veil").hidden = false;
  frame.classList.add("working");
  one("progress").removeAttribute("value");
  one("doing").textContent = isReady ? "Restoring" : "Loading the network";
  one("status").textContent = `${picture.name} is being restored`;
  lay(picture);
  worker.postMessage({height: picture.height, width: picture.width, values: picture.values});
  one("cancel").focus({preventScroll: true});
}

// Show a picture as it was, on both sides until it is restored.
function lay(picture) {
  const {width, height, levels, name} = picture, largest = Math.min(640, innerHeight * 0.72);
  for (const canvas of [before, after]) {
    Object.assign(canvas, {width, height});
    canvas.getContext("2d").putImageData(new ImageData(levels, width, height), 0, 0);
  }
  // Small pictures are enlarged, large ones fit the window.
  frame.style.setProperty("--width", `${Math.round(Math.min(1124, (largest * width) / height))}px`);
  before.setAttribute("role", "img");
  before.setAttribute("aria-label", `${name}, before and after restoration`);
  one("caption").innerHTML = "<b></b> ";
  one("caption").firstChild.textContent = name;
  one("caption").append(` ${width} × ${height} pixels`);
}

function restored({restored, found}) {
  shown = {...waiting, restored: restored.values, found};
  finish();
  one("status").textContent = `${shown.name} is restored`;
}

// End the waiting: show what was restored last, or the empty page.
function finish() {
  const hadFocus = document.activeElement === one("cancel");
  waiting = null;
  one("veil").hidden = true;
  frame.classList.remove("working");
  one("drop").hidden = Boolean(shown);
  one("viewer").hidden = one("controls").hidden = !shown;
  one("report").hidden = !shown?.found;
  if (shown) {
    lay(shown);
    draw();
    if (shown.found) tell(shown.found);
  }
  if (hadFocus) one(shown ? "split" : "file").focus({preventScroll: true});
}

function cancel() {
  stop();
  start();
  one("status").textContent = "Cancelled";
  finish();
}

// The restored levels at a strength: the correction is scaled, the network does not run again.
function mix({levels, values, restored, isGrey, width, height}, strength) {
  const size = width * height, mixed = new Uint8ClampedArray(levels);
  const at = (place) => values[place] + strength * (restored[place] - values[place]);
  for (let place = 0; place < size; place++) {
    if (!levels[4 * place + 3]) continue;
    const colours = [at(place), at(size + place), at(2 * size + place)];
    if (isGrey) colours.fill((colours[0] + colours[1] + colours[2]) / 3);
    for (let plane = 0; plane < 3; plane++) mixed[4 * place + plane] = 255 * colours[plane];  // clamped and rounded
  }
  return new ImageData(mixed, width, height);
}

function draw() {
  const strength = Number(one("strength").value), download = one("download");
  one("strength-value").textContent = strength.toFixed(2);
  after.getContext("2d").putImageData(mix(shown, strength), 0, 0);
  const type = shown.type === "image/jpeg" ? "image/jpeg" : "image/png", drawn = ++drawing;
  download.removeAttribute("href");
  after.toBlob((blob) => {
    if (drawn !== drawing) return;
    URL.revokeObjectURL(link);
    download.href = link = URL.createObjectURL(blob);
    download.download = `${shown.name.replace(/\.[^.]*$/, "")}-restored.${type === "image/jpeg" ? "jpg" : "png"}`;
    download.textContent = `Download ${type === "image/jpeg" ? "JPEG" : "PNG"}`;
  }, type, 0.95);
}

function tell(found) {
  const rows = [...found].sort((one, other) => other.presence - one.presence).map(({kind, presence, severity}) => {
    const row = document.createElement("tr"), percent = [presence, severity].map((each) => `${Math.round(100 * each)}%`);
    row.className = presence >= 0.5 ? "likely" : "unlikely";
    row.innerHTML = '<th scope="row"></th><td><div class="bar"><i></i></div><span></span></td>' +
      '<td class="severity"><div class="bar"><i></i></div><span></span></td>';
    row.firstChild.textContent = nameKind(kind);
    row.querySelectorAll("i").forEach((bar, place) => (bar.style.width = percent[place]));
    row.querySelectorAll("span").forEach((text, place) => (text.textContent = percent[place]));
    return row;
  });
  one("found").replaceChildren(...rows);
}

async function load(name) {
  const response = await fetch(`examples/${name}`);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response;
}

async function loadExample(name) {
  try {
    const content = await (await load(name)).blob();
    return new File([content], name, {type: content.type});
  } catch {
    throw new Error("This example could not be loaded. Check the connection and try again.");
  }
}

async function offerExamples() {
  const names = await load("names.json").then((response) => response.json()).catch(() => []);
  const items = names.map((name) => {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
    image.src = `examples/${name}`;
    image.alt = "";
    button.type = "button";
    button.append(image, nameKind(name.replace(/\.[^.]*$/, "")));
    button.onclick = async () => {
      await take(loadExample(name));
      if (waiting) one("viewer").scrollIntoView({block: "nearest"});
    };
    item.append(button);
    return item;
  });
  one("examples").querySelector("ul").replaceChildren(...items);
  one("no-examples").hidden = Boolean(items.length);
  one("examples").hidden = false;
}

one("file").onchange = ({target}) => {
  if (target.files.length) take(target.files[0]);
  target.value = "";
};
one("cancel").onclick = cancel;
one("split").oninput = ({target}) => frame.style.setProperty("--split", `${target.value}%`);
let isDue = false;
one("strength").oninput = () => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => ((isDue = false), draw()));
};
document.addEventListener("paste", ({clipboardData}) => clipboardData.files.length && take(clipboardData.files[0]));
document.addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("over")));
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
offerExamples();
if (unable) {
  say(unable);
  one("engine").textContent = "The network cannot run in this browser";
} else {
  start();
}
