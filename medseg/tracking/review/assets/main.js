// Start: read the index, build the controls, show the worst case.

const index = readBlock("index");
let latest = 0;

async function select(at) {
  const one = index.cases[at];
  const call = ++latest;
  table.mark(at);
  const hasImages = one.block !== null;
  find("panes").hidden = find("readout").hidden = !hasImages;
  find("tools").hidden = find("absent").hidden = hasImages;
  find("tools").hidden = !hasImages;
  if (!hasImages) {
    find("viewer").append(find("about"));
    find("absent").textContent = one.error ? "There is no mask to show." : "The images of this case are not in this page.";
    viewer.volume = null;
    return showAbout(one, "");
  }
  const volume = await decodeCase(one.block);
  if (call !== latest) return; // another case was chosen meanwhile
  viewer.show(volume);
  showAbout(one, volume.note);
  for (const layer of ["reference", "predicted"])
    document.querySelector(`[data-layer="${layer}"]`).disabled = volume[layer] === null;
  const isJudged = volume.reference !== null && volume.predicted !== null;
  document.querySelector('[data-layer="errors"]').disabled = find("error").disabled = !isJudged;
  document.body.dataset.case = one.id;
}

function buildControls() {
  const dots = { reference: ["dot"], predicted: ["dot dashed"], errors: ["dot block", "dot block"] };
  const tints = { reference: [0], predicted: [1], errors: [1, 0] };
  for (const [name, text] of Object.entries(LAYERS)) {
    const marks = dots[name].map((className, at) => {
      const mark = make("i", { className });
      const colour = viewer.colours[0].names[tints[name][at]];
      if (name === "errors") mark.style.background = colour;
      else mark.style.borderColor = colour;
      return mark;
    });
    const title = name === "errors" ? "Orange: false positive, blue: false negative, white: another structure (e)" : `${text} (${name[0]})`;
    const button = make("button", { "data-layer": name, "aria-pressed": String(viewer.layers[name]), title }, ...marks, text);
    button.addEventListener("click", () => viewer.setLayer(name));
    find("layers").append(button);
  }
  for (const [name, text] of Object.entries(DRAGS)) {
    const button = make("button", { textContent: text, "data-drag": name, title: `Drag: ${text.toLowerCase()}` });
    button.addEventListener("click", () => viewer.setDrag(name));
    find("drag").append(button);
  }
  viewer.setDrag("cross");
  find("structure").append(option(0, "all structures"), ...index.labels.map(({ name }, at) => option(at + 1, name)));
  const on = (id, type, action) => find(id).addEventListener(type, action);
  on("structure", "change", (event) => ((viewer.structure = Number(event.target.value)), viewer.redraw()));
  on("channel", "change", (event) => viewer.setChannel(Number(event.target.value)));
  on("preset", "change", (event) => viewer.applyPreset(event.target.value));
  on("opacity", "input", (event) => viewer.setOpacity(Number(event.target.value)));
  on("error", "click", () => viewer.goToError());
  on("fit", "click", () => viewer.fitAll());
  on("previous", "click", () => select(table.neighbour(-1)));
  on("next", "click", () => select(table.neighbour(1)));
  on("ask", "click", () => toggleHelp());
  on("close", "click", () => find("help").close());
  new ResizeObserver(() => viewer.redraw()).observe(find("panes"));
}

const toggleHelp = () => (find("help").open ? find("help").close() : find("help").showModal());

function nextPreset() {
  const names = [...find("preset").options].map(({ value }) => value).filter((name) => name !== "custom");
  viewer.applyPreset(names[(names.indexOf(viewer.preset) + 1) % names.length]);
}

const KEYS = {
  j: ["next case", () => select(table.neighbour(1))],
  k: ["previous case", () => select(table.neighbour(-1))],
  r: ["reference", () => viewer.setLayer("reference")],
  p: ["prediction", () => viewer.setLayer("predicted")],
  e: ["errors: false positive orange, false negative blue", () => viewer.setLayer("errors")],
  h: ["hide or show everything that is drawn on the image", () => ((viewer.isBare = !viewer.isBare), viewer.redraw())],
  m: ["go to the largest error", () => viewer.goToError()],
  w: ["next window", () => nextPreset()],
  c: ["next channel", () => viewer.setChannel((viewer.channel + 1) % viewer.volume.channels.length)],
  x: ["crosshair", () => ((viewer.showsCross = !viewer.showsCross), viewer.redraw())],
  f: ["whole image", () => viewer.fitAll()],
  "+": ["larger", () => viewer.zoomBy(1.25)],
  "-": ["smaller", () => viewer.zoomBy(0.8)],
  ArrowUp: ["next slice of the active plane", () => viewer.step(viewer.active, 1)],
  ArrowDown: ["previous slice of the active plane", () => viewer.step(viewer.active, -1)],
  PageUp: ["five slices on", () => viewer.step(viewer.active, 5)],
  PageDown: ["five slices back", () => viewer.step(viewer.active, -5)],
  "?": ["this help", () => toggleHelp()],
};
const ALWAYS = ["j", "k", "?"]; // work without an image, too
const MOUSE = [
  ["wheel", "slices; with Ctrl: zoom"], ["drag", "crosshair, slices or window, as chosen"], ["right button, Shift", "window: across is width, up is level"],
  ["double click", "only this plane"], ["two fingers", "zoom"],
];

function buildHelp() {
  const rows = [...Object.entries(KEYS).map(([key, [what]]) => [key, what]), ...MOUSE];
  find("keys").append(...rows.map(([key, what]) => make("tr", {}, make("td", {}, make("kbd", { textContent: key })), make("td", { textContent: what }))));
}

function press(event) {
  const { tagName, type } = event.target;
  const isTyping = tagName === "SELECT" || (tagName === "INPUT" && type !== "range");
  const ownsArrows = tagName === "INPUT" && event.key.startsWith("Arrow");
  if (isTyping || ownsArrows || event.ctrlKey || event.metaKey || event.altKey) return;
  const entry = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
  if (!entry || (find("help").open && event.key !== "?") || !(viewer.volume || ALWAYS.includes(event.key))) return;
  if (event.key === "c" && viewer.volume.channels.length < 2) return;
  event.preventDefault();
  entry[1]();
}

viewer.colours = index.colours.map((names) => Object.assign(names.map(rgb), { names }));
showSummary();
buildControls();
buildHelp();
table.start();
document.addEventListener("keydown", press);
if (typeof DecompressionStream === "undefined") {
  find("absent").hidden = false;
  find("absent").textContent = "This browser cannot unpack the images (no DecompressionStream). Chrome 80, Firefox 113, Safari 16.4 or newer can.";
} else if (index.cases.length) select(0);
