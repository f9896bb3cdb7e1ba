// Grey values and masks of one slice as pixels. Cold colours are the reference, warm ones the prediction.

const ERRORS = { falsePositive: [255, 158, 44], falseNegative: [51, 214, 255], swapped: [255, 255, 255] };
const FILL = 0.55; // of the opacity: what lies under a filled mask must stay readable

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// Grey on the screen for each stored level.
function windowTable(levels, [low, high]) {
  const width = Math.max(high - low, 1e-9);
  return Uint8ClampedArray.from(levels, (level) => (255 * (level - low)) / width);
}

function paintGrey(volume, layout, view) {
  const image = new ImageData(layout.width, layout.height);
  const shown = volume.isColour ? volume.channels : [volume.channels[view.channel]];
  const planes = shown.map((channel) => cutSlice(channel.codes, layout));
  const tables = shown.map((channel) => windowTable(channel.levels, view.window));
  for (let place = 0; place < planes[0].length; place++) {
    for (let colour = 0; colour < 3; colour++) {
      const from = volume.isColour ? colour : 0;
      image.data[4 * place + colour] = tables[from][planes[from][place]];
    }
    image.data[4 * place + 3] = 255;
  }
  return image;
}

// Keep one structure; ignored voxels are background in both masks, and so is what was not evaluated.
function pickStructure(labels, reference, structure) {
  return labels.map((value, place) => {
    const hidden = value === OTHER || (reference && isIgnored(reference[place]));
    return hidden || (structure && value !== structure) ? 0 : value;
  });
}

function paintMasks(reference, predicted, size, view, colours) {
  const image = new ImageData(size.width, size.height);
  const data = image.data;
  const put = (place, colour, alpha) => {
    const under = data[4 * place + 3] / 255;
    const over = alpha + under * (1 - alpha);
    for (let part = 0; part < 3; part++) {
      const mixed = colour[part] * alpha + data[4 * place + part] * under * (1 - alpha);
      data[4 * place + part] = over ? mixed / over : 0;
    }
    data[4 * place + 3] = 255 * over;
  };
  const fill = (labels, side) => {
    for (let place = 0; place < labels.length; place++)
      if (labels[place]) put(place, colours[(labels[place] - 1) % colours.length][side], FILL * view.opacity);
  };
  const alone = !(view.layers.reference && view.layers.predicted); // both filled would be a third colour
  if (reference && view.layers.reference && alone && !view.layers.errors) fill(reference, 0);
  if (predicted && view.layers.predicted && alone && !view.layers.errors) fill(predicted, 1);
  if (reference && predicted && view.layers.errors)
    for (let place = 0; place < reference.length; place++) {
      const [truth, found] = [reference[place], predicted[place]];
      if (truth === found) continue;
      const kind = !truth ? "falsePositive" : !found ? "falseNegative" : "swapped";
      put(place, ERRORS[kind], view.opacity);
    }
  return image;
}
