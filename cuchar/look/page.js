/* The page's behaviour. Data flows one way: `data` is unpacked once, `view` is what the reader chose, and the draw
 * functions show `view`. Everything that comes from a corpus or a checkpoint enters the page as textContent. */
"use strict";
(async () => {
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

  // --- unpacking

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

  // --- what the reader chose

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

  // --- layout: rows of characters of equal width, of which only those in sight are in the document

  const text = element("text"), sheet = element("sheet");
  let width = 8, rows = [], rowOf = new Uint32Array(N), column = new Uint32Array(N);
  const rowHeight = () => HEIGHT + (view.guesses ? GUESSES * GUESS_HEIGHT + 8 : 0);
  const drawn = new Map();

  function layOut() {
    const probe = document.createElement("canvas").getContext("2d");
    probe.font = getComputedStyle(text).font;
    width = Math.ceil(probe.measureText("0").width * 4) / 4;
    const columns = Math.max(8, Math.floor((text.clientWidth - 28) / width));
    rows = [0];
    let used = 0, blank = -1;
    for (let at = 0; at < N; at++) {
      const needed = widths[ids[at]];
      if (used + needed > columns && !isBreak(at)) {
        const start = blank >= rows.at(-1) ? blank + 1 : at;
        rows.push(start);
        used = 0;
        for (let k = start; k < at; k++) used += widths[ids[k]];
        blank = -1;
      }
      if (data.characters[ids[at]] === 32) blank = at;
      used += needed;
      if (isBreak(at) && at + 1 < N) {
        rows.push(at + 1);
        used = 0;
        blank = -1;
      }
    }
    rows.forEach((start, row) => {
      let taken = 0;
      for (let at = start; at < (rows[row + 1] ?? N); at++) {
        rowOf[at] = row;
        column[at] = taken;
        taken += widths[ids[at]];
      }
    });
    for (const row of drawn.keys()) undraw(row);
    sheet.style.height = rows.length * rowHeight() + "px";
  }

  function undraw(row) {
    drawn.get(row).remove();
    drawn.delete(row);
  }

  function drawRow(row) {
    const line = document.createElement("div");
    line.className = "row";
    line.style.top = row * rowHeight() + "px";
    for (let at = rows[row]; at < (rows[row + 1] ?? N); at++) {
      const span = document.createElement("span");
      span.dataset.at = at;
      span.textContent = glyph(at);
      span.style.left = column[at] * width + "px";
      span.style.width = widths[ids[at]] * width + "px";
      line.append(span);
      for (let k = 0; view.guesses && at > 0 && k < GUESSES; k++) {
        const guess = document.createElement("i"), id = guesses[k * N + at];
        guess.textContent = glyphs[id] === " " ? "␣" : glyphs[id];
        guess.className = id === ids[at] ? "hit" : "";
        guess.style.left = span.style.left;
        guess.style.width = span.style.width;
        guess.style.top = HEIGHT + 2 + k * GUESS_HEIGHT + "px";
        const { back, ink } = heatOf(chances[k * N + at] / 255);
        guess.style.background = back;
        guess.style.color = ink;
        line.append(guess);
      }
    }
    drawn.set(row, line);
    sheet.append(line);
    colourRow(line);
  }

  function colourRow(line) {
    for (const span of line.querySelectorAll("span")) {
      const at = Number(span.dataset.at), { back, ink } = colourAt(at);
      span.style.background = back;
      span.style.color = ink;
      span.style.setProperty("--bits", heatOf(surprise[at] / data.steps.surprise / MOST_BITS).back);
    }
    markRow(line);
  }

  /** Show which of a row's characters are selected, and which one the reader is at. */
  function markRow(line) {
    for (const span of line.querySelectorAll("span")) {
      const at = Number(span.dataset.at);
      span.classList.toggle("picked", view.from !== null && at >= view.from && at < view.to);
      span.classList.toggle("cursor", at === view.at);
    }
  }

  function drawText() {
    const first = Math.max(0, Math.floor(text.scrollTop / rowHeight()) - 4);
    const last = Math.min(rows.length - 1, Math.ceil((text.scrollTop + text.clientHeight) / rowHeight()) + 4);
    for (const row of drawn.keys()) if (row < first || row > last) undraw(row);
    for (let row = first; row <= last; row++) if (!drawn.has(row)) drawRow(row);
    const frame = element("window").style, share = 100 / N;
    const from = rows[Math.min(rows.length - 1, Math.floor(text.scrollTop / rowHeight()))];
    const to = rows[Math.ceil((text.scrollTop + text.clientHeight) / rowHeight())] ?? N;
    frame.left = from * share + "%";
    frame.width = (to - from) * share + "%";
  }
  const recolour = () => drawn.forEach(colourRow);
  const mark = () => drawn.forEach(markRow);

  function drawOverview() {
    const canvas = element("overview"), scale = devicePixelRatio || 1;
    const across = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale))), high = (canvas.height = Math.round(40 * scale));
    const brush = canvas.getContext("2d");
    for (let x = 0; x < across; x++) {
      const from = Math.floor((x * N) / across), to = Math.max(from + 1, Math.floor(((x + 1) * N) / across));
      let value = 0, bits = 0;
      for (let at = from; at < to; at++) {
        value += valueAt(at);
        bits += surprise[at];
      }
      value /= to - from;
      brush.fillStyle = view.quantity === "surprise" ? heatOf(value).back : palette[Math.round(value * 20) + 20].back;
      brush.fillRect(x, 0, 1, high * 0.6);
      brush.fillStyle = heatOf(bits / (to - from) / data.steps.surprise / (MOST_BITS / 2)).back;
      brush.fillRect(x, high * 0.6, 1, high * 0.4);
    }
  }

  // --- the panels

  function make(tag, content, className = "") {
    const made = document.createElement(tag);
    if (content !== null) made.textContent = content;
    made.className = className;
    return made;
  }

  function lineAndColumn(at) {
    let line = 1, start = 0;
    for (let k = 0; k < at; k++) if (isBreak(k)) [line, start] = [line + 1, k + 1];
    return `line ${line}, column ${at - start + 1}`;
  }

  function drawPlace() {
    const at = view.at, bits = at ? (surprise[at] / data.steps.surprise).toFixed(1) + " bits of surprise" : "nothing came before it";
    const about = `${describe(data.characters[ids[at]])}, ${lineAndColumn(at)}: ${bits}`;
    element("place").replaceChildren(make("b", glyph(at) === " " ? "␣" : glyph(at)), make("span", about));
    const shown = QUANTITIES.slice(0, gates ? -1 : 1).map(({ key }) => {
      const pair = make("span", null);
      pair.append(make("em", (key === "c" ? "tanh c" : key) + " "), signed(valueAt(at, key), key === "c" || key === "h" ? 2 : 1));
      return pair;
    });
    element("values").replaceChildren(...shown);
    const list = [];
    for (let k = 0; at > 0 && k < GUESSES; k++) {
      const id = guesses[k * N + at], chance = chances[k * N + at] / 255, row = make("li", null, id === ids[at] ? "hit" : "");
      const bar = make("i", null);
      bar.style.width = 100 * chance + "%";
      row.append(make("span", glyphs[id] === " " ? "␣" : glyphs[id]), bar, make("span", (100 * chance).toFixed(chance < 0.095 ? 1 : 0) + " %"));
      list.push(row);
    }
    element("guesses").replaceChildren(...list);
    return about;
  }

  function scoreLine([property, score, plain]) {
    const line = make("div", null, "score"), bar = make("div", null, "bar"), filled = make("i", null), control = make("u", null);
    const chance = data.properties[property].control;
    filled.style.width = 100 * Math.abs(score) + "%";
    control.style.left = 100 * chance + "%";
    bar.append(filled, control);
    line.title = `score ${signed(score)}; by chance up to ${chance.toFixed(2)}; plain correlation ${signed(plain)}`;
    line.append(make("span", propertyName(property)), bar, make("span", signed(score)));
    return line;
  }

  /** The cells that the filter lets pass, the best first, each with what of it is shown. */
  function listed() {
    const every = cells.map((cell, at) => ({ at, tracks: cell.tracks.slice(0, 3) }));
    if (view.filter === "all") return every;
    if (view.filter === "nothing") return every.filter(({ tracks }) => !tracks.length);
    const chosen = every.map(({ at }) => ({ at, tracks: cells[at].tracks.filter(([property]) => (view.filter === "sequences" ? !data.properties[property].name : property === Number(view.filter))) }));
    const best = ({ tracks }) => Math.abs(tracks[0][1]);
    return chosen.filter(({ tracks }) => tracks.length).sort((a, b) => best(b) - best(a));
  }

  function drawCells() {
    const list = listed();
    const found = view.filter === "nothing" ? list.length : list.filter(({ tracks }) => tracks.length).length;
    element("found").textContent = found
      ? `${found} of ${cells.length} cells. The bar is the score, the line in it what chance reaches.`
      : "No cell does so beyond chance: nothing found.";
    element("cells").replaceChildren(...list.map(({ at, tracks }) => {
      const cell = cells[at], button = make("button", null), item = make("li", null), head = make("div", null);
      head.append(make("b", cellName(cell)), make("small", ` · ${percent(cell.explained)} is the current character${cell.gates ? "" : " · no gates here"}`));
      button.type = "button";
      button.dataset.cell = at;
      button.append(head, ...(tracks.length ? tracks.map(scoreLine) : [make("small", "nothing found")]));
      button.addEventListener("click", () => choose({ cell: at }));
      item.append(button);
      return item;
    }));
    markCell();
  }

  function markCell(scroll = false) {
    for (const button of element("cells").querySelectorAll("button")) {
      const chosen = Number(button.dataset.cell) === view.cell;
      button.setAttribute("aria-pressed", chosen);
      if (chosen && scroll) button.scrollIntoView({ block: "nearest" });
    }
  }

  function drawChosen() {
    const cell = cells[view.cell], quantity = QUANTITIES.find(({ key }) => key === view.quantity);
    const track = cell.tracks[0];
    const story = track ? `${propertyName(track[0])}: ${signed(track[1])} (by chance up to ${data.properties[track[0]].control.toFixed(2)})` : "tracks nothing that was looked for";
    element("chosen").replaceChildren(make("b", view.quantity === "surprise" ? "Surprise" : cellName(cell)), make("span", view.quantity === "surprise" ? "how many bits each character cost the model" : story));
    for (const button of element("quantities").children) {
      const key = button.dataset.key, missing = key !== "c" && key !== "surprise" && !cell.gates;
      button.setAttribute("aria-checked", key === view.quantity);
      button.tabIndex = key === view.quantity ? 0 : -1;
      button.disabled = missing;
      button.title = missing ? "left out of this page to keep it small" : QUANTITIES.find((each) => each.key === key).name;
    }
    const fromZero = ["i", "f", "o", "surprise"].includes(quantity.key);
    element("low").textContent = quantity.key === "surprise" ? "" : (fromZero ? "0 … " : "") + (fromZero ? "" : "−1");
    element("high").textContent = quantity.key === "surprise" ? "" : "1";
  }

  // --- the selected passage

  const level = () => Number(element("threshold").value);

  /** Cells that fire, high or low, at nine of ten places of the selection or more, and at most at half of the others. */
  function firing() {
    const inside = view.to - view.from, least = level() * data.steps.cell - 1e-9, found = [];
    cells.forEach((cell, at) => {
      for (const sign of [1, -1]) {
        let within = 0, all = 0;
        for (let k = 0; k < N; k++) if (sign * cell.c[k] >= least) all += 1;
        for (let k = view.from; k < view.to; k++) if (sign * cell.c[k] >= least) within += 1;
        const elsewhere = (all - within) / Math.max(1, N - inside);
        if (within >= 0.9 * inside && elsewhere <= 0.5) found.push({ at, sign, within: within / inside, elsewhere });
      }
    });
    return found.sort((a, b) => b.within - b.elsewhere - (a.within - a.elsewhere)).slice(0, 12);
  }

  /** Passages outside the selection where the most of these cells fire together, the longest first. */
  function passages(found) {
    const least = level() * data.steps.cell - 1e-9, count = new Uint8Array(N);
    for (const { at, sign } of found) for (let k = 0; k < N; k++) if (sign * cells[at].c[k] >= least) count[k] += 1;
    const needed = Math.max(1, Math.ceil(0.75 * found.length)), runs = [];
    for (let at = 0; at < N; at++) {
      if (count[at] < needed || (at >= view.from && at < view.to)) continue;
      const from = at;
      let together = 0;
      while (at < N && count[at] >= needed && !(at >= view.from && at < view.to)) together += count[at++];
      runs.push({ from, to: at, together: together / (at - from) });
    }
    const likeness = ({ from, to, together }) => (together / found.length) * (Math.min(to - from, view.to - view.from) / Math.max(to - from, view.to - view.from));
    return runs.sort((a, b) => likeness(b) - likeness(a)).slice(0, 8);
  }

  function drawSelection() {
    element("brushed").hidden = view.from === null;
    if (view.from === null) return;
    element("level").textContent = level().toFixed(2);
    const found = firing(), length = view.to - view.from;
    element("range").textContent = `${length} character${length === 1 ? "" : "s"}: ` + (found.length ? `${found.length === 12 ? "the best 12" : found.length} cell${found.length === 1 ? "" : "s"} fire${found.length === 1 ? "s" : ""} here and little elsewhere.` : "no cell fires here and not elsewhere. Try another threshold.");
    element("firing").replaceChildren(...found.map(({ at, sign, within, elsewhere }) => {
      const item = make("li", null), button = make("button", null), track = cells[at].tracks[0];
      button.type = "button";
      button.append(make("b", `${cellName(cells[at])} `), make("small", `${sign < 0 ? "low" : "high"} in ${percent(within)}, elsewhere in ${percent(elsewhere)}${track ? " · " + propertyName(track[0]) : ""}`));
      button.addEventListener("click", () => choose({ cell: at, quantity: "c" }));
      item.append(button);
      return item;
    }));
    const alike = found.length ? passages(found) : [];
    element("passages").replaceChildren(...alike.map(({ from, to }) => {
      const item = make("li", null), button = make("button", null);
      button.type = "button";
      button.append(quoted(Math.max(0, from - 8), from), make("mark", quoted(from, Math.min(to, from + 40))), quoted(Math.min(to, from + 40), Math.min(N, Math.min(to, from + 40) + 12)));
      button.addEventListener("click", () => goTo(from));
      item.append(button);
      return item;
    }), ...(alike.length ? [] : [make("li", "none", "quiet")]));
  }

  // --- choosing

  async function choose(changes) {
    Object.assign(view, changes);
    if (!hasGates() && view.quantity !== "surprise") view.quantity = "c";
    const cell = view.cell;
    markCell(true);
    const unpacked = await gatesOf(cells[cell]);
    if (cell !== view.cell) return; // another one was chosen meanwhile
    gates = unpacked;
    drawChosen();
    recolour();
    drawOverview();
    drawPlace();
  }

  function moveTo(at, extend = false, speak = false) {
    const before = view.at;
    view.at = Math.max(0, Math.min(N - 1, at));
    if (extend) {
      if (anchor === null) anchor = before;
      select(anchor, view.at);
    } else anchor = null;
    mark();
    const about = drawPlace();
    if (speak) element("spoken").textContent = `${glyph(view.at)} ${about}; ${view.quantity} ${signed(valueAt(view.at))}`;
  }

  function scrollToRow(row) {
    const top = row * rowHeight();
    if (top < text.scrollTop + HEIGHT) text.scrollTop = top - HEIGHT;
    else if (top + rowHeight() > text.scrollTop + text.clientHeight - HEIGHT) text.scrollTop = top + rowHeight() - text.clientHeight + HEIGHT;
    drawText();
  }

  function goTo(at) {
    text.scrollTop = rowOf[at] * rowHeight() - text.clientHeight / 3;
    drawText();
    moveTo(at);
  }

  let anchor = null; // where the selection began
  function select(from, to) {
    view.from = Math.min(from, to);
    view.to = Math.max(from, to) + 1;
    requestAnimationFrame(drawSelection);
  }
  function clear() {
    view.from = view.to = anchor = null;
    mark();
    drawSelection();
  }

  function stepCell(by) {
    const order = listed().map(({ at }) => at);
    if (!order.length) return undefined;
    const place = order.indexOf(view.cell);
    return choose({ cell: order[place < 0 ? 0 : Math.max(0, Math.min(order.length - 1, place + by))] });
  }
  function stepQuantity(by) {
    const open = QUANTITIES.map(({ key }) => key).filter((key) => key === "c" || key === "surprise" || hasGates());
    return choose({ quantity: open[(open.indexOf(view.quantity) + by + open.length) % open.length] });
  }
  function showGuesses() {
    const top = rows[Math.min(rows.length - 1, Math.floor(text.scrollTop / rowHeight()))];
    view.guesses = !view.guesses;
    element("guessing").setAttribute("aria-pressed", view.guesses);
    layOut();
    text.scrollTop = rowOf[top] * rowHeight();
    drawText();
  }

  // --- events

  const charAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.dataset?.at;
  let dragging = false, moved = false;
  text.addEventListener("pointerdown", (event) => {
    const at = charAt(event);
    if (at === undefined || event.button !== 0) return;
    dragging = event.pointerType === "mouse" || view.brushing;
    moved = false;
    anchor = event.shiftKey ? (anchor ?? view.at) : Number(at);
    if (event.shiftKey) select(anchor, Number(at));
    const keep = anchor;
    moveTo(Number(at));
    anchor = keep;
    text.focus({ preventScroll: true });
  });
  text.addEventListener("pointermove", (event) => {
    const at = charAt(event);
    if (at === undefined || Number(at) === view.at) return;
    if (dragging) {
      moved = true;
      moveTo(Number(at), true);
    } else if (event.pointerType === "mouse") hover(Number(at));
  });
  addEventListener("pointerup", () => { dragging = false; });
  addEventListener("pointercancel", () => { dragging = false; });

  let hovering = false;
  function hover(at) {
    view.at = at;
    if (hovering) return;
    hovering = true;
    requestAnimationFrame(() => {
      hovering = false;
      mark();
      drawPlace();
    });
  }

  text.addEventListener("keydown", (event) => {
    const at = view.at, row = rowOf[at];
    const inRow = (other) => {
      if (other < 0 || other >= rows.length) return at;
      let found = rows[other];
      while (found + 1 < (rows[other + 1] ?? N) && column[found] < column[at]) found += 1;
      return found;
    };
    const targets = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: inRow(row - 1), ArrowDown: inRow(row + 1),
      Home: rows[row], End: (rows[row + 1] ?? N) - 1,
      PageUp: inRow(Math.max(0, row - 15)), PageDown: inRow(Math.min(rows.length - 1, row + 15)),
    };
    if (!(event.key in targets) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    moveTo(targets[event.key], event.shiftKey, true);
    scrollToRow(rowOf[view.at]);
  });

  element("cells").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    stepCell(event.key === "ArrowDown" ? 1 : -1);
    element("cells").querySelector('[aria-pressed="true"]')?.focus();
  });

  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, input") || element("keys").open) return;
    const actions = {
      j: () => stepCell(1), k: () => stepCell(-1), g: () => stepQuantity(1), p: showGuesses, Escape: clear,
      "?": () => element("keys").showModal(),
    };
    if (event.key in actions) {
      event.preventDefault();
      actions[event.key]();
    }
  });

  element("quantities").addEventListener("keydown", async (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    await stepQuantity(by);
    element("quantities").querySelector('[aria-checked="true"]').focus();
  });

  element("overview").addEventListener("click", (event) => {
    goTo(Math.min(N - 1, Math.floor((event.offsetX / event.currentTarget.clientWidth) * N)));
  });
  text.addEventListener("scroll", () => requestAnimationFrame(drawText));
  element("threshold").addEventListener("input", drawSelection);
  element("clear").addEventListener("click", clear);
  element("guessing").addEventListener("click", showGuesses);
  element("help").addEventListener("click", () => element("keys").showModal());
  element("brushing").addEventListener("click", () => {
    view.brushing = !view.brushing;
    element("brushing").setAttribute("aria-pressed", view.brushing);
    text.classList.toggle("brushing", view.brushing);
  });
  element("filter").addEventListener("change", (event) => {
    view.filter = event.target.value;
    drawCells();
    const first = listed()[0];
    if (first) choose({ cell: first.at });
  });
  new ResizeObserver(() => {
    const top = rows[Math.min(rows.length - 1, Math.floor(text.scrollTop / rowHeight()))] ?? 0;
    layOut();
    text.scrollTop = rowOf[top] * rowHeight();
    drawText();
    drawOverview();
  }).observe(text);

  // --- light and dark

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let theme = "auto";
  function applyTheme() {
    document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
    element("theme").textContent = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" }[theme];
    mixColours();
    for (const row of [...drawn.keys()]) undraw(row);
    if (rows.length) {
      drawText();
      drawOverview();
    }
  }
  dark.addEventListener("change", applyTheme);
  element("theme").addEventListener("click", () => {
    theme = { auto: "light", light: "dark", dark: "auto" }[theme];
    applyTheme();
  });

  // --- the beginning

  function fill() {
    document.title = "cuchar look: " + data.title;
    element("title").textContent = data.title;
    const number = (count) => count.toLocaleString("en");
    const all = data.layers * data.hidden, part = N < data.total ? `The first ${number(N)} of ${number(data.total)} characters` : `${number(N)} characters`;
    const missing = [cells.length < all ? `${number(all - cells.length)} of ${number(all)} cells` : "", data.gates < cells.length ? `the gates of ${number(cells.length - data.gates)} cells` : ""].filter(Boolean);
    element("about").textContent = `${data.layers} layer${data.layers > 1 ? "s" : ""} of ${data.hidden} units, ${number(data.parameters)} parameters. ${part}, ${data.bits.toFixed(2)} bits each.`
      + (data.exact ? "" : " Cells were ranked by the whole text, which was read in chunks.")
      + (missing.length ? ` Left out to keep this page small, for those that track the least: ${missing.join(" and ")}.` : "");
    for (const { key, name } of QUANTITIES) {
      const button = make("button", key);
      button.type = "button";
      button.dataset.key = key;
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", name);
      button.addEventListener("click", () => choose({ quantity: key }));
      element("quantities").append(button);
    }
    const options = [["all", "what they track most"], ...data.properties.map(({ name }, at) => [String(at), name]).filter(([, name]) => name), ["sequences", "sequences of characters"], ["nothing", "cells for which nothing was found"]];
    element("filter").replaceChildren(...options.map(([value, name]) => {
      const option = make("option", name);
      option.value = value;
      return option;
    }));
    element("meaning").replaceChildren(...EXPLAINED.map((line) => make("p", line)));
  }

  fill();
  applyTheme();
  layOut();
  drawText();
  drawCells();
  drawSelection();
  await choose({});
  document.documentElement.dataset.ready = "yes";
})();
