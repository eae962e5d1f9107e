/* The text: rows of characters of equal width, of which only those in sight are in the document; and the overview. */

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
