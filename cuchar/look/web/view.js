/* What the reader chose, its values, and the colours of values: all from 0 or -1 to 1. */

const view = { cell: 0, quantity: "c", at: Math.min(N - 1, 20), from: null, to: null, filter: "all", guesses: false, brushing: false };
let gates = null; // of the chosen cell, once they are unpacked
const hasGates = () => Boolean(cells[view.cell].gates);

/** The chosen quantity at a place, from −1 to 1 (gates i, f, o and surprise: from 0 to 1). */
function valueAt(at, quantity = view.quantity) {
  const c = cells[view.cell].c[at] / data.steps.cell;
  if (quantity === "surprise") return Math.min(1, surprise[at] / data.steps.surprise / MOST_BITS);
  if (quantity === "c" || !gates) return c;
  const gate = (key) => gates[GATES.indexOf(key)][at] / data.steps.gate;
  return quantity === "h" ? gate("o") * c : gate(quantity);
}

// --- colours

let palette = []; // from −1 to 1: background and ink
let heats = []; // from 0 to MOST_BITS bits
const parse = (text) => [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16));
const css = (color) => `rgb(${color.map(Math.round).join(" ")})`;
const mix = (from, to, share) => from.map((value, k) => value + (to[k] - value) * share);
const luminance = (color) => {
  const [r, g, b] = color.map((value) => (value <= 10.31475 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
/** A background with an ink that is readable on it: the theme's, or black or white, of which one always is. */
function swatch(color, ink) {
  const rounded = color.map(Math.round);
  const readable = [ink, [0, 0, 0], [255, 255, 255]].find((each) => contrast(each, rounded) >= 4.5);
  return { back: css(rounded), ink: css(readable) };
}
function mixColours() {
  const style = getComputedStyle(document.documentElement);
  const [low, zero, high, heat, ink] = ["low", "zero", "high", "heat", "ink"].map((name) => parse(style.getPropertyValue("--" + name).trim()));
  palette = Array.from({ length: 41 }, (_, k) => swatch(mix(zero, k < 20 ? low : high, Math.abs(k - 20) / 20), ink));
  heats = Array.from({ length: 33 }, (_, k) => swatch(mix(zero, heat, k / 32), ink));
  element("scale").style.background = `linear-gradient(90deg, ${css(low)}, ${css(zero)}, ${css(high)})`;
  element("heat").style.background = `linear-gradient(90deg, ${css(zero)}, ${css(heat)})`;
}
const heatOf = (share) => heats[Math.round(Math.min(1, share) * 32)];
const colourAt = (at) => (view.quantity === "surprise" ? heatOf(valueAt(at)) : palette[Math.round(valueAt(at) * 20) + 20]);
