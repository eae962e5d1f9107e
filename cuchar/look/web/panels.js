/* The panels: the character that the reader is at, the cells and what they track, the chosen cell. */

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
    head.append(make("b", cellName(cell)), make("small", ` · ${percent(cell.explained)} explained by the current character${cell.gates ? "" : " · no gates here"}`));
    button.type = "button";
    button.dataset.cell = at;
    button.append(head, ...(tracks.length ? tracks.map(scoreLine) : [make("small", "nothing found")]));
    button.addEventListener("click", () => choose({ cell: at }));
    item.append(button);
    return item;
  }));
  markCell();
}

// Scroll the list, and not the page around it, until a cell's button is in sight.
function showInList(button) {
  const list = element("cells"), { top, bottom } = button.getBoundingClientRect(), sight = list.getBoundingClientRect();
  if (top < sight.top) list.scrollTop -= sight.top - top;
  else if (bottom > sight.bottom) list.scrollTop += bottom - sight.bottom;
}

function markCell(scroll = false) {
  for (const button of element("cells").querySelectorAll("button")) {
    const chosen = Number(button.dataset.cell) === view.cell;
    button.setAttribute("aria-pressed", chosen);
    if (chosen && scroll) showInList(button);
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
