// Put a large picture together from the three parts of an exported restorer, step by step as
// modeling_dpmambair/large_export_dpmambair.py does. A picture is {height, width, values}: three planes, RGB in [0, 1].

const OVERLAP = 32, MOST_CORRECTIONS = 2;
// Of tiles as wide as the picture. Convolutions of the shipped weights reach so far that where neighbours meet, the
// first leaves a tenth of a grey level, the second a level or two, and the last, for very wide pictures, up to ten.
const ROW_OVERLAPS = [96, 64, OVERLAP];
// Ten times the package's: of 8 bits this is an eighth of a level at most, and corrections cost a browser minutes.
const MEANS_TOLERANCE = 5e-3;
const GRID = 8, SCAN_CONTEXT = 4, EMBEDDED_PIXELS = 2 ** 17, EMBEDDED_CONTEXTS = 8, BAND_ROWS = 32, SHEET_SHARE = 1 / 4;

const padded = (length) => length + (GRID - (length % GRID)) % GRID;

// The largest height and width of a tile of so many pixels, and the overlap of neighbours: the widest that fits twice.
export function chooseTile(height, width, pixels) {
  if (height * width <= pixels) return [[padded(height), padded(width)], 0];
  const overlap = ROW_OVERLAPS.find((each) => pixels >= 2 * each * padded(width));
  if (overlap) {
    const rows = Math.floor(pixels / padded(width) / GRID) * GRID;
    return [[Math.min(padded(height), rows), padded(width)], overlap];
  }
  const side = Math.floor(Math.sqrt(pixels) / GRID) * GRID;
  return [[side, side], SCAN_CONTEXT * OVERLAP];
}

export function planTiles(height, width, [tallest, widest], overlap) {
  const [rows, columns] = [split(height, tallest, overlap), split(width, widest, overlap)];
  return rows.flatMap((down) => columns.map((across) => ({rows: down, columns: across})));
}

// Of the overlap of neighbours the first half is the later one's context, in the third quarter they change over.
function split(length, side, overlap) {
  const whole = padded(length), count = side < whole ? Math.ceil((whole - overlap) / (side - overlap)) : 1;
  side = Math.ceil((whole + (count - 1) * overlap) / (count * GRID)) * GRID;
  const starts = Array.from({length: count}, (_, part) => (part < count - 1 ? part * (side - overlap) : whole - side));
  const seams = [0, ...starts.slice(0, -1).map((start) => start + side - overlap / 2), whole];
  const rise = Float32Array.from({length: overlap / 2}, (_, i) =>
    i < overlap / 4 ? Math.sin(((i + 0.5) / overlap) * 2 * Math.PI) ** 2 : 1);
  return starts.map((start, part) => {
    const weights = new Float32Array(Math.min(side, length - start)), enter = seams[part], leave = seams[part + 1];
    weights.fill(1, enter - start);
    if (enter) weights.set(rise, enter - start);
    if (leave < length) {
      weights.fill(1, leave - start);
      for (let i = 0; i < weights.length - (leave - start); i++) weights[leave - start + i] = 1 - rise[i];
    }
    return {start, stop: start + weights.length, enter, leave, following: starts[part + 1] ?? whole, weights};
  });
}

export function cut(picture, top, bottom, left = 0, right = picture.width) {
  const height = bottom - top, width = right - left, values = new Float32Array(3 * height * width);
  for (let row = 0; row < 3 * height; row++) {
    const plane = Math.floor(row / height), from = (plane * picture.height + top + (row % height)) * picture.width;
    values.set(picture.values.subarray(from + left, from + right), row * width);
  }
  return {height, width, values};
}

// Bands of rows from all over the picture, one below the other, of at most one tile's area.
function layOutSheet(picture, tile) {
  const rows = tile.rows.stop - tile.rows.start, columns = tile.columns.stop - tile.columns.start;
  let width = picture.width, share = Math.floor(picture.height * SHEET_SHARE);
  let count = Math.floor(Math.min(Math.floor((rows * columns) / width), share) / BAND_ROWS);
  if (count === 0) [count, width] = [1, columns];
  const bands = Array.from({length: count}, (_, band) => {
    const centre = Math.floor(((band + 0.5) * picture.height) / count);
    const top = Math.floor(Math.max(centre - BAND_ROWS / 2, 0) / GRID) * GRID;
    return cut(picture, top, Math.min(top + BAND_ROWS, picture.height), 0, width);
  });
  const height = bands.reduce((sum, band) => sum + band.height, 0), values = new Float32Array(3 * height * width);
  for (let plane = 0, place = 0; plane < 3; plane++) {
    for (const band of bands) {
      const size = band.height * width;
      values.set(band.values.subarray(plane * size, (plane + 1) * size), place);
      place += size;
    }
  }
  return {height, width, values};
}

const image = ({values, height, width}) => ({data: values, dims: [1, 3, height, width]});
const places = (...values) => ({data: Int32Array.from(values), dims: [values.length]});
const count = (value) => ({data: Int32Array.of(value), dims: []});

// Join what was measured of windows or strips: everything one below the other, but `down` of strips one after the other.
function join(tensors, isDownOfStrips = false) {
  if (!isDownOfStrips) {
    const data = new Float32Array(tensors.reduce((sum, each) => sum + each.data.length, 0));
    tensors.reduce((place, each) => (data.set(each.data, place), place + each.data.length), 0);
    return {data, dims: [tensors.length, ...tensors[0].dims.slice(1)]};
  }
  const total = tensors.reduce((sum, each) => sum + each.dims[2], 0), data = new Float32Array(3 * total);
  let place = 0;
  for (const {data: from, dims} of tensors) {
    for (let colour = 0; colour < 3; colour++) {
      data.set(from.subarray(colour * dims[2], (colour + 1) * dims[2]), colour * total + place);
    }
    place += dims[2];
  }
  return {data, dims: [1, 3, total]};
}

function cutProfile({data, dims}, start, stop) {
  const width = Math.min(stop, dims[2]) - start, cutting = new Float32Array(3 * width);
  for (let colour = 0; colour < 3; colour++) {
    cutting.set(data.subarray(colour * dims[2] + start, colour * dims[2] + start + width), colour * width);
  }
  return {data: cutting, dims: [1, 3, width]};
}

// The degradation embedding of a whole picture, and its description where the network gives one.
export function embed(run, picture, {context, window}) {
  return window ? embedWindows(run, picture, window) : embedStrips(run, picture, context);
}

async function embedWindows(run, picture, side) {
  const divide = (length) => Math.max(1, Math.floor((length + Math.floor(side / 2)) / side));
  const rows = divide(picture.height), columns = divide(picture.width), found = [];
  const height = Math.floor(picture.height / rows), width = Math.floor(picture.width / columns);
  for (let place = 0; place < rows * columns; place++) {
    const top = Math.floor(place / columns) * height, left = (place % columns) * width;
    const part = cut(picture, top, top + height, left, left + width);
    found.push(await run("measure", {pixel_values: image(part), start: count(0), count: count(height)}));
  }
  return run("embed", joinAll(found));
}

async function embedStrips(run, picture, context) {
  const {height, width} = picture, strips = [];
  let rows = Math.max(Math.floor(EMBEDDED_PIXELS / width), EMBEDDED_CONTEXTS * context);
  rows = height <= rows ? height : Math.floor((rows - 2 * context) / GRID) * GRID;
  for (let start = 0; start < height; start += rows) {
    const top = Math.max(start - context, 0), own = Math.min(rows, height - start);
    const strip = cut(picture, top, Math.min(start + own + context, height));
    const found = await run("measure", {pixel_values: image(strip), start: count(start - top), count: count(own)});
    if (found.down) found.down = cutProfile(found.down, start - top, start - top + own);
    strips.push(found);
  }
  return run("embed", joinAll(strips, "down"));
}

const joinAll = (measures, sequential) => Object.fromEntries(
  Object.keys(measures[0]).map((name) => [name, join(measures.map((each) => each[name]), name === sequential)]));

// Restore a picture; `report` is told after each step how many are done, and of how many. Corrections that turn out not
// to be needed count until then: their number is at most this, and falls to what is done at the end.
export async function restore(run, picture, embedding, sizes, [tile, overlap], report = () => {}) {
  const {height, width} = picture, tiles = planTiles(height, width, tile, overlap), isCarried = tile[1] >= width;
  const hasMeans = tiles.length > 1 && sizes.means > 0;
  const correcting = tiles.length + 2, total = tiles.length + (hasMeans ? (1 + MOST_CORRECTIONS) * correcting : 0);
  let done = 0;

  async function* restoreParts(pictures, parts, means) {
    let states = {data: new Float32Array(2 * sizes.states), dims: [2, sizes.states]};
    for (const {rows, columns} of parts) {
      const enter = isCarried && rows.enter > 0 ? rows.enter - rows.start : -1;
      const found = await run("restore", {
        pixel_values: image(cut(pictures, rows.start, rows.stop, columns.start, columns.stop)),
        degradation_embedding: embedding,
        rows: places(rows.enter - rows.start, rows.leave - rows.start),
        columns: places(columns.enter - columns.start, columns.leave - columns.start),
        seams: places(enter, rows.leave - rows.start, rows.following - rows.start),
        means: {data: means ?? new Float32Array(sizes.means), dims: [sizes.means]},
        knows_means: {data: Float32Array.of(means ? 1 : 0), dims: []},
        states,
      });
      if (isCarried) states = found.found_states;
      report(++done, total);
      yield found;
    }
  }

  // Run over all parts, and return the means over all of them; `use` gets the result and the part of each.
  async function measure(pictures, parts, means, use = () => {}) {
    const sum = new Float64Array(sizes.means);
    let area = 0, place = 0;
    for await (const found of restoreParts(pictures, parts, means)) {
      const part = parts[place++], {rows, columns} = part;
      const size = (rows.leave - rows.enter) * (columns.leave - columns.enter);
      found.found_means.data.forEach((value, channel) => (sum[channel] += size * value));
      area += size;
      use(found, part);
    }
    return Float32Array.from(sum, (value) => value / area);
  }

  const restored = {height, width, values: new Float32Array(3 * height * width)};
  function blendAll(means) {
    restored.values.fill(0);
    return measure(picture, tiles, means, ({reconstruction}, part) =>
      blend(restored.values, reconstruction.data, part, height, width));
  }

  if (!hasMeans) {
    await blendAll(null);
    return restored;
  }
  const sheet = layOutSheet(picture, tiles[0]);
  const whole = planTiles(sheet.height, sheet.width, [padded(sheet.height), padded(sheet.width)], 0);
  let ofSheet = await measure(sheet, whole, null), seen = await measure(picture, tiles, ofSheet);
  for (let correction = 0; ; correction++) {
    const shifted = await measure(sheet, whole, seen);
    const means = seen.map((mean, channel) => mean + shifted[channel] - ofSheet[channel]);
    seen = await blendAll(means);
    const isNear = seen.every((mean, channel) => Math.abs(mean - means[channel]) <= MEANS_TOLERANCE);
    if (isNear || correction === MOST_CORRECTIONS) {
      report(done, done);
      return restored;
    }
    ofSheet = await measure(sheet, whole, means);
  }
}

function blend(restored, values, {rows, columns}, height, width) {
  let from = 0;
  for (let plane = 0; plane < 3; plane++) {
    for (let row = rows.start; row < rows.stop; row++) {
      const weight = rows.weights[row - rows.start], line = (plane * height + row) * width;
      for (let column = columns.start; column < columns.stop; column++) {
        restored[line + column] += values[from++] * weight * columns.weights[column - columns.start];
      }
    }
  }
}
