// One plane: a canvas that is drawn anew for each change, its slider, and what pointers do on it.

const LETTER_INSET = 12;
const NICE = [1, 2, 5];

class Pane {
  constructor(name, plane, viewer) {
    Object.assign(this, { name, plane, viewer });
    this.canvas = make("canvas", { "aria-label": `${name} plane`, "data-plane": name });
    this.slider = make("input", { type: "range", min: 0, "aria-label": `${name} slice` });
    this.profile = make("canvas", { className: "profile", "aria-hidden": "true" });
    this.caption = make("span");
    this.enlarge = make("button", { textContent: "⤢", title: "Only this plane, or all", "aria-label": `enlarge ${name}` });
    const track = make("div", { className: "track" }, this.profile, this.slider);
    const under = make("div", { className: "under" }, this.enlarge, track, this.caption);
    const stage = make("div", { className: "stage" }, this.canvas);
    this.element = make("figure", { className: "pane" }, stage, under);
    this.slider.addEventListener("input", () => viewer.moveTo(plane.axis, Number(this.slider.value)));
    this.enlarge.addEventListener("click", () => viewer.enlarge(this));
    listen(this, viewer);
  }

  get sizeMm() {
    const { shape, spacing } = this.viewer.volume;
    return [this.plane.across, this.plane.up].map((axis) => shape[axis] * spacing[axis]);
  }

  // Scale at which the whole slice fits, in pixels of the screen per mm.
  get fit() {
    const [width, height] = this.sizeMm;
    return Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
  }

  get sign() {
    return this.viewer.volume.picture ? 1 : -1;
  }

  get centre() {
    return [this.plane.across, this.plane.up].map((axis) => this.viewer.centre[axis]);
  }

  toScreen(across, up) {
    const [x, y] = this.centre;
    const scale = this.viewer.scale;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    return [width / 2 + this.sign * (across - x) * scale, height / 2 + this.sign * (up - y) * scale];
  }

  // The voxel under a point of the canvas, within the volume.
  toVoxel(x, y) {
    const { volume, scale } = this.viewer;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const mm = [
      this.centre[0] + (this.sign * (x - width / 2)) / scale,
      this.centre[1] + (this.sign * (y - height / 2)) / scale,
    ];
    return [this.plane.across, this.plane.up].map((axis, at) =>
      clamp(Math.floor(mm[at] / volume.spacing[axis]), 0, volume.shape[axis] - 1),
    );
  }

  draw() {
    const { viewer, canvas, plane } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !viewer.volume) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    const position = viewer.index[plane.axis];
    const layout = layOut(viewer.volume, plane, position);
    this.drawSlice(context, layout);
    if (viewer.showsCross) this.drawCross(context, width, height);
    this.drawLetters(context, width, height);
    this.drawScale(context, width, height);
    this.slider.max = viewer.volume.shape[plane.axis] - 1;
    this.slider.value = position;
    this.caption.textContent = this.describe(position);
    this.drawProfile(position);
  }

  describe(position) {
    const { start, stop, shape, scan, picture } = this.viewer.volume;
    if (picture) return "picture";
    const axis = this.plane.axis;
    const step = (stop[axis] - start[axis]) / shape[axis];
    return `${this.name} ${start[axis] + Math.floor((position + 0.5) * step) + 1} of ${scan[axis]}`;
  }

  drawSlice(context, layout) {
    const { viewer, plane } = this;
    const { volume } = viewer;
    const [width, height] = this.sizeMm;
    const ends = [this.toScreen(0, 0), this.toScreen(width, height)];
    const [left, top] = [0, 1].map((at) => Math.min(ends[0][at], ends[1][at]));
    const [wide, high] = [width * viewer.scale, height * viewer.scale];
    const paint = (image, smooth) => {
      const sheet = new OffscreenCanvas(layout.width, layout.height);
      sheet.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(sheet, left, top, wide, high);
    };
    if (volume.channels.length) paint(paintGrey(volume, layout, viewer), true);
    const whole = volume.reference && cutSlice(volume.reference, layout);
    const cut = (array) => array && pickStructure(cutSlice(array, layout), whole, viewer.structure);
    const [reference, predicted] = [cut(volume.reference), cut(volume.predicted)];
    if (viewer.isBare) return;
    paint(paintMasks(reference, predicted, layout, viewer, viewer.colours), false);
    const place = { left, top, x: wide / layout.width, y: high / layout.height, layout };
    if (reference && viewer.layers.reference) this.drawOutlines(context, reference, 0, place);
    if (predicted && viewer.layers.predicted) this.drawOutlines(context, predicted, 1, place);
  }

  drawOutlines(context, labels, side, { left, top, x, y, layout }) {
    context.lineWidth = 1.6;
    context.setLineDash(side ? [5, 3.5] : []);
    for (const label of new Set(labels)) {
      if (!label) continue;
      context.strokeStyle = this.viewer.colours[(label - 1) % this.viewer.colours.length].names[side];
      context.beginPath();
      for (const loop of traceOutline(labels, layout.width, layout.height, label)) {
        for (let at = 0; at < loop.length; at += 2) {
          const [px, py] = [left + loop[at] * x, top + loop[at + 1] * y];
          if (at) context.lineTo(px, py);
          else context.moveTo(px, py);
        }
        context.closePath();
      }
      context.stroke();
    }
    context.setLineDash([]);
  }

  drawCross(context, width, height) {
    const { volume, index } = this.viewer;
    const [across, up] = [this.plane.across, this.plane.up];
    const [x, y] = this.toScreen((index[across] + 0.5) * volume.spacing[across], (index[up] + 0.5) * volume.spacing[up]);
    context.strokeStyle = "rgba(255, 255, 255, 0.38)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - 9], [x + 9, width]]) context.moveTo(from, y), context.lineTo(to, y);
    for (const [from, to] of [[0, y - 9], [y + 9, height]]) context.moveTo(x, from), context.lineTo(x, to);
    context.stroke();
  }

  write(context, text, x, y) {
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.fillStyle = "#e8e8e8";
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }

  drawLetters(context, width, height) {
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    const inset = LETTER_INSET;
    const spots = [[inset, height / 2], [width - inset, height / 2], [width / 2, inset], [width / 2, height - inset]];
    [...this.plane.letters].forEach((letter, at) => this.write(context, letter, ...spots[at]));
  }

  // 1, 2 or 5 times a power of ten, at most a quarter of the pane; the pixels of a picture have no known size.
  drawScale(context, width, height) {
    const most = width / 4 / this.viewer.scale;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = Math.max(...NICE.map((number) => number * power).filter((number) => number <= most));
    const [x, y] = [14, height - 14];
    for (const [line, colour] of [[5, "#000"], [2.5, "#e8e8e8"]]) {
      context.lineWidth = line;
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + length * this.viewer.scale, y);
      context.stroke();
    }
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "left";
    this.write(context, `${Number(length.toPrecision(1))} ${this.viewer.volume.picture ? "pixels" : "mm"}`, x, y - 12);
  }

  // Above the slider: where structures lie (grey) and where errors are (amber).
  drawProfile(position) {
    const { present, wrong } = this.viewer.volume.profiles[this.plane.axis];
    const canvas = this.profile;
    canvas.width = present.length;
    canvas.height = 7;
    const context = canvas.getContext("2d");
    const most = Math.max(1, ...present, ...wrong);
    present.forEach((count, at) => {
      context.fillStyle = "#56606a";
      if (count) context.fillRect(at, 7 - Math.max(1, (7 * count) / most), 1, 7);
      context.fillStyle = "#ffb454";
      if (wrong[at]) context.fillRect(at, 7 - Math.max(1, (7 * wrong[at]) / most), 1, 7);
    });
    this.element.hidden = Boolean(this.viewer.only && this.viewer.only !== this);
    canvas.dataset.position = position;
  }
}
