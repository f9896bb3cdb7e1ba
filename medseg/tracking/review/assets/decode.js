// From the data blocks of the page to volumes: base64, deflate, and sums of differences along the first axis.

const KEPT = 4; // decoded cases that stay in memory
const decoded = new Map();

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function readBlock(id) {
  return JSON.parse(find(id).textContent);
}

async function decodeChannel(channel, width) {
  const codes = await inflate(channel.data);
  for (let row = 0; row < codes.length; row += width)
    for (let place = row + 1; place < row + width; place++) codes[place] += codes[place - 1]; // modulo 256
  return { name: channel.name, unit: channel.unit, levels: Float64Array.from(channel.levels), codes };
}

async function decodeCase(number) {
  if (decoded.has(number)) return decoded.get(number);
  const block = readBlock(`case-${number}`);
  const mask = async (text) => (text === null ? null : inflate(text));
  const volume = {
    ...block,
    reference: await mask(block.reference),
    predicted: await mask(block.predicted),
    channels: await Promise.all(block.channels.map((channel) => decodeChannel(channel, block.shape[0]))),
  };
  volume.isColour = block.picture && volume.channels.length === 3;
  volume.profiles = [0, 1, 2].map((axis) => profile(volume, axis));
  decoded.set(number, volume);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return volume;
}
