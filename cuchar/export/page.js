// The page: it reads the settings, lets the model write a few milliseconds at a time, and shows the text as it comes.
// What comes from the model's file or from the reader becomes text of the page, never markup.

const SLICE = 12; // milliseconds that the model may write before the page gets its turn
const MOST_LENGTH = 1000000;
const LARGEST_SEED = 2n ** 63n - 1n;

const data = JSON.parse(document.getElementById("model").textContent);
const model = new Model(data);
const idOf = new Map(data.codes.map((code, id) => [code, id]));
const element = (id) => document.getElementById(id);
let writing = { stopped: true }; // the text that was begun last

class Mistake extends Error {}

function expect(isRight, name, expected, found) {
  if (!isRight) throw new Mistake(`${name}: expected ${expected}, found ${found === "" ? "nothing" : found}`);
}

function settings() {
  const [temperature, topK, length, seed] = ["temperature", "top-k", "length", "seed"].map((id) => element(id).value.trim());
  const isCount = (text, least, most) => /^\d+$/.test(text) && Number(text) >= least && Number(text) <= most;
  expect(Number(temperature) > 0 && Number(temperature) < Infinity, "Temperature", "a number above 0", temperature);
  expect(isCount(topK, 0, Infinity), "Top k", "a whole number, 0 for off", topK);
  expect(isCount(length, 1, MOST_LENGTH), "Characters", `a whole number from 1 to ${MOST_LENGTH}`, length);
  expect(seed === "" || (/^\d+$/.test(seed) && BigInt(seed) <= LARGEST_SEED), "Seed", `a whole number up to ${LARGEST_SEED}`, seed);
  return {
    prime: idsOf(element("prime").value),
    length: Number(length),
    seed: seed === "" ? BigInt(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1) : BigInt(seed),
    options: { temperature: Number(temperature), topK: Number(topK), argmax: element("argmax").checked },
  };
}

function idsOf(written) {
  const text = data.composed ? written.normalize("NFC") : written;
  const codes = data.bytes ? Array.from(new TextEncoder().encode(text)) : Array.from(text, (one) => one.codePointAt(0));
  const unknown = data.unknown < 0 ? codes.find((code) => !idOf.has(code)) : undefined;
  const name = unknown === undefined ? "" : data.bytes ? `byte ${unknown}` : JSON.stringify(String.fromCodePoint(unknown));
  expect(unknown === undefined, "Begin with", `characters that the model knows, which are ${data.codes.length}`, name);
  return codes.map((code) => idOf.get(code) ?? data.unknown);
}

// Makes text of ids, piece by piece. Bytes of one character may come in two pieces; no ids at all end the last one.
function reader() {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (ids) => {
    const codes = ids.map((id) => data.codes[id]);
    if (data.bytes) return decoder.decode(Uint8Array.from(codes), { stream: codes.length > 0 });
    return codes.map((code) => String.fromCodePoint(code)).join("");
  };
}

// Ends when the browser has done everything else that waited, such as clicks and drawing.
const channel = new MessageChannel();
channel.port1.start();
function othersTurn() {
  return new Promise((resume) => {
    channel.port1.addEventListener("message", resume, { once: true });
    channel.port2.postMessage(null);
  });
}

async function write({ prime, length, seed, options }) {
  const mine = (writing = { stopped: false }), ids = model.sample(prime, seed, options), read = reader();
  const made = element("made"), began = performance.now();
  let count = 0;
  while (count < length && !mine.stopped) {
    const piece = [], end = performance.now() + SLICE;
    while (count < length && performance.now() < end) {
      const id = ids.next().value;
      if (id === null) continue;
      piece.push(id);
      count++;
    }
    made.append(read(piece));
    await othersTurn();
    if (writing !== mine) return; // another text was begun meanwhile
  }
  made.append(read([]));
  const rate = (1000 * count) / (performance.now() - began);
  const number = (value) => Math.round(value).toLocaleString("en");
  const how = options.argmax && prime.length ? "" : `, seed ${seed}`;
  element("status").textContent = `${number(count)} characters, ${number(rate)} a second${how}`;
  show(false);
}

function show(isWriting) {
  element("stop").disabled = !isWriting;
  element("copy").disabled = isWriting;
  element("text").setAttribute("aria-busy", String(isWriting));
}

function begin(event) {
  event.preventDefault();
  element("error").textContent = "";
  try {
    const asked = settings();
    element("beginning").textContent = element("prime").value;
    element("made").replaceChildren();
    element("status").textContent = "writing";
    show(true);
    write(asked);
  } catch (mistake) {
    if (!(mistake instanceof Mistake)) throw mistake;
    element("error").textContent = mistake.message;
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText(element("text").textContent);
    element("status").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(element("text")); // where a page may not write to the clipboard, the reader can
    element("status").textContent = "selected: press Ctrl+C or Command+C to copy";
  }
}

const { vocabulary_size, hidden, layers } = data.model;
const kind = data.bytes ? "bytes" : "characters";
element("facts").textContent =
  `${layers} LSTM ${layers === 1 ? "layer" : "layers"} of ${hidden} units, ${vocabulary_size} ${kind}, ${data.weights} weights; made with cuchar`;
element("loss").textContent = data.loss;
element("same").hidden = data.weights !== "float32"; // rounded weights write something else
element("settings").addEventListener("submit", begin);
element("stop").addEventListener("click", () => (writing.stopped = true));
element("copy").addEventListener("click", copy);
