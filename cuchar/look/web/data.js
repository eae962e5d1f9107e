/* What the page knows: `data`, unpacked once, and how its characters and numbers are written.
 *
 * page.py joins the scripts of this folder to one module, in the order of this list: data, view, text, panels, passage,
 * events. Data flows that way too: `view` is what the reader chose, and the draw functions show it. Everything that comes
 * from a corpus or a checkpoint enters the page as textContent. */

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const HEIGHT = 24, GUESS_HEIGHT = 15, MOST_BITS = 8;
const QUANTITIES = [
  { key: "c", name: "cell: tanh(c)" }, { key: "h", name: "output: h = o tanh(c)" }, { key: "i", name: "input gate i" },
  { key: "f", name: "forget gate f" }, { key: "g", name: "candidate g" }, { key: "o", name: "output gate o" },
  { key: "surprise", name: "surprise in bits" },
];
const GATES = ["i", "f", "g", "o"];
const EXPLAINED = [
  "A cell's value at a character is tanh(c) after the character was read, from −1 to 1, rounded to a twentieth; gates are rounded to a tenth.",
  "The score is a partial correlation: how well the cell follows a property between places that show the same character. So a cell that merely sees a quotation mark gets none for tracking quotes. 1 is the best; a minus means that the cell is low where the property is high.",
  "The control, the line in each bar, is the best score of any cell when the property is taken from other places of the text. A cell is said to track something if its score beats that by " + data.margin + ".",
  "The share that the current character explains is what a list of the cell's means, one for each character, would predict.",
  "Surprise is −log2 of the probability that the model gave to the character before it read it.",
];

async function unpack(packed, Type) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

const [ids, guesses, chances, surprise] = await Promise.all([
  unpack(data.ids, Uint16Array), unpack(data.guesses, Uint16Array), unpack(data.chances, Uint8Array), unpack(data.surprise, Uint8Array),
]);
const N = ids.length, GUESSES = guesses.length / N;
const cells = data.cells;
for (const cell of cells) cell.c = await unpack(cell.values, Int8Array);
const gatesOf = (cell) => (cell.gates ? (cell.unpacked ??= Promise.all(cell.gates.map((gate) => unpack(gate, Int8Array)))) : null);

// --- characters: each becomes one glyph that cannot reorder or join its neighbours

const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u;
const glyphs = data.characters.map((code) => {
  const character = String.fromCodePoint(code);
  if (code === 10) return "↵";
  if (code === 9) return "⇥";
  if (code < 32) return String.fromCodePoint(0x2400 + code);
  if (code === 127) return "␡";
  if (/[\p{C}\p{Zl}\p{Zp}]/u.test(character)) return "�";
  return /\p{M}/u.test(character) ? "◌" + character : character;
});
const widths = data.characters.map((code) => (WIDE.test(String.fromCodePoint(code)) ? 2 : 1));
const describe = (code) => {
  const hexadecimal = code.toString(16).toUpperCase();
  if (data.bytes) return "byte 0x" + hexadecimal.padStart(2, "0");
  return "U+" + hexadecimal.padStart(4, "0");
};
const visible = (text) => text.replaceAll(" ", "␣");
const glyph = (at) => glyphs[ids[at]];
const isBreak = (at) => data.characters[ids[at]] === 10;
const quoted = (from, to) => Array.from({ length: to - from }, (_, k) => glyph(from + k)).join("");

// --- numbers and names

const signed = (value, digits = 2) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const percent = (share) => Math.round(100 * share) + " %";
const cellName = (cell) => `layer ${Math.floor(cell.cell / data.hidden) + 1}, unit ${(cell.cell % data.hidden) + 1}`;
const propertyName = (at) => {
  const { name, sequence } = data.properties[at];
  if (name) return name;
  const known = new Map(data.characters.map((code, id) => [code, glyphs[id]]));
  return "just read: " + visible(sequence.map((code) => known.get(code) ?? (code < 32 ? String.fromCodePoint(0x2400 + code) : String.fromCodePoint(code))).join(""));
};
