// The state of what is shown, and everything that changes it. All panes follow one crosshair and one scale.

const CT_WINDOWS = {
  "soft tissue": [-160, 240], lung: [-1350, 150], bone: [-500, 1300], liver: [-15, 145], brain: [0, 80],
};
const LAYERS = { reference: "Reference", predicted: "Prediction", errors: "Errors" };
const DRAGS = { cross: "Crosshair", scroll: "Scroll", window: "Window" };
const PINCH_MIN = 10;
const WHEEL_STEP = 40;

const viewer = {
  volume: null, panes: [], only: null, active: null, index: [0, 0, 0], centre: [0, 0, 0], zoom: 1, colours: [],
  layers: { reference: true, predicted: true, errors: false }, opacity: 0.45, structure: 0, channel: 0,
  window: [0, 1], preset: "auto", drag: "cross", showsCross: true, isBare: false, isPending: false,

  // Show a decoded case, at the largest cross-section of its structures.
  show(volume) {
    this.volume = volume;
    this.index = volume.profiles.map(({ present }) => largestAt(present));
    this.channel = Math.min(this.channel, Math.max(0, volume.channels.length - 1));
    this.only = null;
    this.panes = Object.entries(planesOf(volume)).map(([name, plane]) => new Pane(name, plane, this));
    const isSingle = this.panes.length === 1;
    find("panes").replaceChildren(...this.panes.map((pane) => pane.element), ...(isSingle ? [] : [find("about")]));
    if (isSingle) find("viewer").append(find("about"));
    this.panes.forEach((pane) => (pane.enlarge.hidden = isSingle));
    this.active = this.panes[0];
    find("panes").classList.toggle("single", isSingle);
    this.fillPresets();
    this.applyPreset(this.preset);
    this.fitAll();
  },

  get scale() {
    const shown = this.only ? [this.only] : this.panes;
    return Math.min(...shown.map((pane) => pane.fit)) * this.zoom;
  },

  redraw() {
    if (this.isPending) return;
    this.isPending = true;
    requestAnimationFrame(() => {
      this.isPending = false;
      if (!this.volume) return;
      this.panes.forEach((pane) => {
        pane.element.hidden = Boolean(this.only && this.only !== pane);
        pane.element.classList.toggle("active", pane === this.active && this.panes.length > 1);
      });
      this.settleCentre();
      this.panes.forEach((pane) => pane.draw());
      this.tell();
    });
  },

  moveTo(axis, position) {
    this.index[axis] = clamp(position, 0, this.volume.shape[axis] - 1);
    this.redraw();
  },

  step(pane, count) {
    this.active = pane;
    this.moveTo(pane.plane.axis, this.index[pane.plane.axis] + count);
  },

  fitAll() {
    this.zoom = 1;
    this.redraw();
  },

  zoomBy(factor) {
    this.zoom = clamp(this.zoom * factor, 1, 12);
    const { spacing } = this.volume;
    this.centre = this.index.map((at, axis) => (at + 0.5) * spacing[axis]);
    this.redraw();
  },

  // A side that fits is centred; else the view follows the crosshair once that leaves it, and stays within the image.
  settleCentre() {
    const { shape, spacing } = this.volume;
    const half = [Infinity, Infinity, Infinity];
    for (const pane of this.only ? [this.only] : this.panes) {
      const [width, height] = [pane.canvas.clientWidth, pane.canvas.clientHeight];
      half[pane.plane.across] = Math.min(half[pane.plane.across], width / 2 / this.scale);
      half[pane.plane.up] = Math.min(half[pane.plane.up], height / 2 / this.scale);
    }
    this.centre = this.centre.map((centre, axis) => {
      const length = shape[axis] * spacing[axis];
      if (half[axis] === Infinity || 2 * half[axis] >= length - 1e-6) return length / 2;
      const cross = (this.index[axis] + 0.5) * spacing[axis];
      return clamp(Math.abs(cross - centre) > half[axis] ? cross : centre, half[axis], length - half[axis]);
    });
  },

  enlarge(pane) {
    this.only = this.only === pane ? null : pane;
    this.active = pane;
    find("panes").classList.toggle("single", this.only !== null || this.panes.length === 1);
    this.redraw();
  },

  setLayer(name, isOn = !this.layers[name]) {
    this.layers[name] = isOn;
    document.querySelector(`#layers [data-layer="${name}"]`).setAttribute("aria-pressed", isOn);
    this.redraw();
  },

  setDrag(name) {
    this.drag = name;
    for (const button of find("drag").children) button.setAttribute("aria-pressed", button.dataset.drag === name);
  },

  setOpacity(percent) {
    this.opacity = percent / 100;
    this.redraw();
  },

  get grey() {
    return this.volume.channels[this.channel];
  },

  fillPresets() {
    const isCt = this.grey?.unit === "HU";
    const names = ["auto", "full", ...(isCt ? Object.keys(CT_WINDOWS) : []), "custom"];
    find("preset").replaceChildren(...names.map((name) => option(name, name)));
    if (!names.includes(this.preset) || (this.preset === "custom" && !isCt)) this.preset = "auto";
    find("preset").disabled = !this.grey;
    const { channels, isColour } = this.volume;
    find("channel").replaceChildren(...channels.map(({ name }, at) => option(at, name)));
    find("channel").value = this.channel;
    find("channel").hidden = channels.length < 2 || isColour;
  },

  applyPreset(name) {
    this.preset = name;
    find("preset").value = name;
    if (!this.grey) return;
    const { levels } = this.grey;
    if (name === "full") this.window = [levels[0], levels[levels.length - 1]];
    else if (name === "auto") this.window = autoWindow(this.volume, this.channel);
    else if (name in CT_WINDOWS) this.window = [...CT_WINDOWS[name]];
    this.redraw();
  },

  setWindow(width, level) {
    this.preset = find("preset").value = "custom";
    this.window = [level - width / 2, level + width / 2];
    this.redraw();
  },

  setChannel(at) {
    this.channel = at;
    this.fillPresets();
    this.applyPreset(this.preset === "custom" ? "auto" : this.preset);
  },

  // Go to the slice with most wrong voxels, and there to the one nearest to their middle.
  goToError() {
    const { profiles, shape, reference, predicted } = this.volume;
    const plane = (this.only ?? this.panes[0]).plane;
    const { wrong } = profiles[plane.axis];
    if (!Math.max(...wrong)) return;
    this.index[plane.axis] = largestAt(wrong);
    const layout = layOut(this.volume, plane, this.index[plane.axis]);
    const [truth, found] = [cutSlice(reference, layout), cutSlice(predicted, layout)];
    const places = [...truth.keys()].filter((place) => isWrong(truth[place], found[place]));
    const spots = places.map((place) => [place % layout.width, Math.floor(place / layout.width)]);
    const middle = [0, 1].map((at) => spots.reduce((sum, spot) => sum + spot[at], 0) / spots.length);
    const apart = (spot) => (spot[0] - middle[0]) ** 2 + (spot[1] - middle[1]) ** 2;
    const [x, y] = spots.reduce((best, spot) => (apart(spot) < apart(best) ? spot : best));
    const flip = (at, axis) => (this.volume.picture ? at : shape[axis] - 1 - at);
    this.index[plane.across] = flip(x, plane.across);
    this.index[plane.up] = flip(y, plane.up);
    this.redraw();
  },

  // What lies under the crosshair.
  tell() {
    const { shape, start, stop, scan, channels, reference, predicted, picture } = this.volume;
    const place = this.index[0] + shape[0] * (this.index[1] + shape[1] * this.index[2]);
    const name = (value) => (value === OTHER ? "not evaluated" : (index.labels[value - 1]?.name ?? "nothing"));
    const parts = [];
    const add = (what, text) => parts.push(`${what} `, make("b", { textContent: text }), "   ");
    const at = this.index.map((n, axis) => start[axis] + Math.floor(((n + 0.5) * (stop[axis] - start[axis])) / shape[axis]));
    add(picture ? "Pixel" : "Voxel", at.slice(0, picture ? 2 : 3).map((n, axis) => `${n + 1}/${scan[axis]}`).join(", "));
    for (const { name: title, levels, codes, unit } of channels)
      add(channels.length > 1 ? title : "Value", `${word(levels[codes[place]])} ${unit}`.trim());
    if (reference) add("Reference", isIgnored(reference[place]) ? "ignored" : name(reference[place]));
    if (predicted) add("Prediction", name(predicted[place]));
    find("readout").replaceChildren(...parts);
    const [low, high] = this.window;
    find("window").textContent = this.grey ? `W ${word(high - low)}  L ${word((low + high) / 2)}` : "no image";
  },
};

// The grey values of the structures, and half as much to either side, within those of the scan; the colours of a
// picture as they are. Ends are the 0.5 and 99.5 percentile.
function autoWindow(volume, at) {
  const { levels, codes } = volume.channels[at];
  if (volume.isColour) {
    const ends = volume.channels.map((channel) => [channel.levels[0], channel.levels[channel.levels.length - 1]]);
    return [Math.min(...ends.map(([low]) => low)), Math.max(...ends.map(([, high]) => high))];
  }
  const isInside = (mask, place) => mask !== null && mask[place] !== 0 && mask[place] !== OTHER;
  const [whole, inside] = [new Uint32Array(256), new Uint32Array(256)];
  for (let place = 0; place < codes.length; place++) {
    whole[codes[place]]++;
    if (isInside(volume.reference, place) || isInside(volume.predicted, place)) inside[codes[place]]++;
  }
  const [first, last] = findEnds(levels, whole);
  const [low, high] = inside.some((count) => count > 0) ? findEnds(levels, inside) : [first, last];
  const room = (high - low) / 2;
  const found = [Math.max(first, low - room), Math.min(last, high + room)];
  return found[1] > found[0] ? found : [levels[0], Math.max(levels[levels.length - 1], levels[0] + 1)];
}

function findEnds(levels, counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return [0.005, 0.995].map((share) => {
    let sum = 0;
    return levels.find((_, code) => (sum += counts[code]) > share * total) ?? levels[levels.length - 1];
  });
}

// Pointers on a pane: one drags by the chosen tool (right button: the window), two zoom; the wheel turns slices.
function listen(pane, viewer) {
  const { canvas } = pane;
  const held = new Map();
  let last = null;
  let rest = 0;
  const pull = (event) => {
    const tool = last.button === 2 || event.shiftKey ? "window" : viewer.drag;
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    if (tool === "cross") point(event);
    else if (tool === "window" && viewer.grey) {
      const [low, high] = viewer.window;
      const { levels } = viewer.grey;
      const unit = Math.max(levels[levels.length - 1] - levels[0], 1e-6) / canvas.clientWidth;
      const width = Math.max(high - low + dx * unit, (levels[levels.length - 1] - levels[0]) / 500);
      viewer.setWindow(width, (low + high) / 2 + dy * unit * -1);
    } else if (tool === "scroll") {
      rest += dy;
      const count = Math.trunc(rest / 6);
      rest -= count * 6;
      if (count) viewer.step(pane, -count);
    }
    last = { ...last, x: event.clientX, y: event.clientY };
  };
  const point = (event) => {
    const [across, up] = pane.toVoxel(event.offsetX, event.offsetY);
    viewer.index[pane.plane.across] = across;
    viewer.index[pane.plane.up] = up;
    viewer.redraw();
  };
  const spread = () => {
    const [one, two] = [...held.values()];
    return Math.max(PINCH_MIN, Math.hypot(one.x - two.x, one.y - two.y));
  };
  canvas.addEventListener("pointerdown", (event) => {
    viewer.active = pane;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    last = { x: event.clientX, y: event.clientY, button: event.button };
    rest = 0;
    if (held.size === 1 && event.button === 0 && !event.shiftKey && viewer.drag === "cross") point(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return;
    const before = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (held.size === 2) viewer.zoomBy(spread() / before);
    else pull(event);
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => viewer.panes.length > 1 && viewer.enlarge(pane));
  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) return viewer.zoomBy(Math.exp(-event.deltaY / 300));
    turned += event.deltaMode ? event.deltaY * WHEEL_STEP : event.deltaY;
    const count = Math.trunc(turned / WHEEL_STEP);
    turned -= count * WHEEL_STEP;
    if (count) viewer.step(pane, -clamp(count, -3, 3));
  }, { passive: false });
}
