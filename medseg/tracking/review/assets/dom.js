// Elements and numbers. Text from outside reaches the page through `textContent` only.

const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function option(value, text) {
  return make("option", { value, textContent: text });
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Three significant digits, from 1 on no more than two decimals; a dash for what is undefined.
function word(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size < 1) return String(Number(value.toPrecision(3)));
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

// Lengths of a picture are told in pixels, which have no known size; where the page has both, heads say so.
const unitOf = (one) => one.unit || lengthUnit();
const lengthUnit = () => [...new Set(index.cases.map(({ unit }) => unit).filter(Boolean))].sort().join(" or ") || "mm";
const nameNsd = (unit) => (isNumber(index.tolerance) ? `NSD (${index.tolerance}\u00a0${unit})` : "NSD");

const FLAG_NAMES = {
  failed: "failed", invented: "invented", outlier: "outlier", empty: "empty", unlike: "out of distribution",
};
const FLAG_HINTS = {
  failed: "No mask was made, or it misses a structure that the reference has, or lies beside it",
  invented: "A structure that the reference does not have",
  outlier: "Dice far below, or volume far from, those of the other cases, or a structure missing that they have",
  empty: "The mask is empty",
  unlike: "The case is unlike the training cases",
};

function flagMark(flag) {
  return make("span", { className: `flag ${flag}`, textContent: FLAG_NAMES[flag], title: FLAG_HINTS[flag] });
}
