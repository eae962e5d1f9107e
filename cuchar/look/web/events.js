/* What clicks, keys and brushes do, and the beginning. */

// --- choosing

async function choose(changes) {
  Object.assign(view, changes);
  if (!hasGates() && view.quantity !== "surprise") view.quantity = "c";
  const cell = view.cell;
  gates = null; // until those of this cell are unpacked
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
  const all = data.layers * data.hidden, unit = data.bytes ? "bytes" : "characters";
  const part = N < data.total ? `The first ${number(N)} of ${number(data.total)} ${unit}` : `${number(N)} ${unit}`;
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
