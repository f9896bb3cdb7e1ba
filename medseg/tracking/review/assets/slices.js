// Which voxels a plane shows. Volumes lie on canonical axes: first to the patient's right (R), then anterior (A),
// then superior (S); the first runs fastest. Radiological convention: the patient's right is on the left of the screen.

const PLANES = {
  axial: { axis: 2, across: 0, up: 1, letters: "RLAP", origin: "inferior" },
  sagittal: { axis: 0, across: 1, up: 2, letters: "APSI", origin: "left" },
  coronal: { axis: 1, across: 0, up: 2, letters: "RLSI", origin: "posterior" },
};
const PICTURE = { axis: 2, across: 1, up: 0, letters: "", origin: "" }; // first axis downwards, second to the right

// The planes worth showing: of a picture or of a single slice one.
function planesOf(volume) {
  if (volume.picture) return { picture: PICTURE };
  const flat = volume.shape.includes(1);
  const kept = Object.entries(PLANES).filter(([, plane]) => !flat || volume.shape[plane.axis] === 1);
  return Object.fromEntries(kept.length ? kept : Object.entries(PLANES));
}

// Return the offsets of a slice: voxel (x, y) of the screen is start + x * right + y * down.
function layOut(volume, plane, position) {
  const steps = [1, volume.shape[0], volume.shape[0] * volume.shape[1]];
  const width = volume.shape[plane.across];
  const height = volume.shape[plane.up];
  const start = position * steps[plane.axis];
  const [right, down] = [steps[plane.across], steps[plane.up]];
  if (volume.picture) return { width, height, start, right, down };
  return { width, height, start: start + (width - 1) * right + (height - 1) * down, right: -right, down: -down };
}

function cutSlice(array, layout) {
  const { width, height, start, right, down } = layout;
  const found = new Uint8Array(width * height);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0, from = start + y * down; x < width; x++, from += right) found[to++] = array[from];
  return found;
}

// Voxels of structures and of errors in each slice along an axis.
function profile(volume, axis) {
  const { shape, reference, predicted } = volume;
  const present = new Uint32Array(shape[axis]);
  const wrong = new Uint32Array(shape[axis]);
  const step = axis === 0 ? 1 : axis === 1 ? shape[0] : shape[0] * shape[1];
  const total = shape[0] * shape[1] * shape[2];
  const main = reference && reference.some((value) => value && value !== OTHER) ? reference : predicted;
  for (let place = 0; main && place < total; place++) {
    const at = Math.floor(place / step) % shape[axis];
    if (main[place] && main[place] !== OTHER) present[at]++;
    if (reference && predicted && isWrong(reference[place], predicted[place])) wrong[at]++;
  }
  return { present, wrong };
}

const OTHER = 255; // a value of no structure: ignored in a reference of a page that ignores one, else background
const isIgnored = (reference) => reference === OTHER && index.ignores;
const evaluated = (value) => (value === OTHER ? 0 : value);
const isWrong = (reference, predicted) => !isIgnored(reference) && evaluated(reference) !== evaluated(predicted);

function largestAt(counts) {
  const most = Math.max(...counts);
  const places = [...counts.keys()].filter((place) => counts[place] === most);
  return places[Math.floor(places.length / 2)];
}

// Outlines along voxel edges as closed loops of [x, y, x, y, ...], the mask always on the right hand.
function traceOutline(labels, width, height, label) {
  const has = (x, y) => x >= 0 && y >= 0 && x < width && y < height && labels[y * width + x] === label;
  const next = new Map();
  const add = (x, y, dx, dy) => {
    const from = y * (width + 1) + x;
    if (!next.has(from)) next.set(from, []);
    next.get(from).push([x + dx, y + dy]);
  };
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      if (labels[y * width + x] !== label) continue;
      if (!has(x, y - 1)) add(x, y, 1, 0);
      if (!has(x + 1, y)) add(x + 1, y, 0, 1);
      if (!has(x, y + 1)) add(x + 1, y + 1, -1, 0);
      if (!has(x - 1, y)) add(x, y + 1, 0, -1);
    }
  const loops = [];
  for (const from of next.keys()) {
    while (next.get(from).length) {
      const loop = [];
      let key = from;
      while (next.get(key)?.length) {
        const [x, y] = next.get(key).pop();
        loop.push(x, y);
        key = y * (width + 1) + x;
      }
      loops.push(loop);
    }
  }
  return loops;
}
