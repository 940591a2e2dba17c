// The worker that holds the network: it restores one picture at a time, and tells how far it is.

import {chooseTile, embed, restore} from "./tiles.js";

// Fixed, so that a picture is restored alike everywhere; it keeps the runtime well below the 4 GiB that it can address.
const TILE_PIXELS = 2 ** 19;
const PARTS = ["measure", "embed", "restore"];
// The sides of the picture that engines are tried with, and how far they may differ: half a grey level.
const TRIAL = 128, TRIAL_DIFFERENCE = 0.5 / 255;

const here = (name) => new URL(name, import.meta.url).href;

async function load(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  // Some hosts unpack such files on the way.
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

const sizes = load("network/parts.json").then((bytes) => JSON.parse(new TextDecoder().decode(bytes)));
const networks = Promise.all(PARTS.map((part) => load(`network/${part}.onnx`)));

// Open the network in one of the runtime's builds, "wasm" or "webgpu".
async function open(kind) {
  const build = kind === "wasm" ? "ort-wasm-simd-threaded" : "ort-wasm-simd-threaded.asyncify";
  const [ort, binary] = await Promise.all([import(`./runtime/ort.${kind}.min.mjs`), load(`runtime/${build}.wasm.gz`)]);
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  Object.assign(ort.env.wasm, {numThreads: threads, wasmBinary: binary.buffer, wasmPaths: {mjs: here(`runtime/${build}.mjs`)}});
  ort.env.logLevel = "error";
  const sessions = {};
  for (const [place, content] of (await networks).entries()) {
    // What the extractor measures is small work, and must not cross to the card and back.
    const providers = kind === "webgpu" && PARTS[place] === "restore" ? ["webgpu", "wasm"] : ["wasm"];
    sessions[PARTS[place]] = await ort.InferenceSession.create(content, {executionProviders: providers});
  }
  async function run(part, inputs) {
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, {data, dims}]) =>
      [name, new ort.Tensor(data instanceof Int32Array ? "int32" : "float32", data, dims)]));
    const found = await sessions[part].run(feeds);
    return Object.fromEntries(Object.entries(found).map(([name, {data, dims}]) => [name, {data, dims}]));
  }
  const close = () => Promise.all(Object.values(sessions).map((session) => session.release()));
  return {run, close, name: kind === "wasm" ? `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}` : "WebGPU"};
}

async function restoreWith(engine, picture, report) {
  const known = await sizes, said = await embed(engine.run, picture, known);
  const plan = chooseTile(picture.height, picture.width, TILE_PIXELS);
  return {said, restored: await restore(engine.run, picture, said.degradation_embedding, known, plan, report)};
}

async function time(engine) {
  const values = Float32Array.from({length: 3 * TRIAL * TRIAL}, (_, place) => (Math.sin(place * place) + 1) / 2);
  const picture = {height: TRIAL, width: TRIAL, values};
  await restoreWith(engine, picture);
  const start = performance.now(), {restored} = await restoreWith(engine, picture);
  return {milliseconds: performance.now() - start, values: restored.values};
}

// Of WebAssembly and, where there is one, WebGPU: the faster. A card that computes something else is not used.
async function choose() {
  const engine = await open("wasm");
  if (!(await self.navigator.gpu?.requestAdapter().catch(() => null))) return engine;
  try {
    const card = await open("webgpu"), [slow, fast] = [await time(engine), await time(card)];
    const agrees = fast.values.every((value, place) => Math.abs(value - slow.values[place]) <= TRIAL_DIFFERENCE);
    const isBetter = agrees && fast.milliseconds < slow.milliseconds;
    await (isBetter ? engine : card).close();
    return isBetter ? card : engine;
  } catch (error) {
    console.info(`WebGPU is not used: ${error.message}`);
    return engine;
  }
}

// All that a picture needs, so that whoever hears that it is ready needs no connection any more.
const ready = Promise.all([choose(), sizes, networks]).then(([engine]) => engine);
ready.then(({name}) => postMessage({kind: "ready", name}), ({message}) => postMessage({kind: "lost", message}));

self.onmessage = async ({data: picture}) => {
  const engine = await ready.catch(() => null);
  if (!engine) return;  // "lost" is said
  try {
    const {said, restored} = await restoreWith(engine, picture, (done, total) => postMessage({kind: "progress", done, total}));
    const {degradations} = await sizes;
    const found = degradations && degradations.map((kind, place) =>
      ({kind, presence: said.presence.data[place], severity: said.severity.data[place]}));
    postMessage({kind: "restored", restored, found}, [restored.values.buffer]);
  } catch ({message}) {
    postMessage({kind: "failed", message});
  }
};
