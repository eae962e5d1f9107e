/* The selected passage: which cells fire there and not elsewhere, and where else they fire together. */

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
  element("range").textContent = `${length} character${length === 1 ? "" : "s"}: ` + (found.length ? `${found.length === 12 ? "the best 12" : found.length} cell${found.length === 1 ? "" : "s"} fire${found.length === 1 ? "s" : ""} here, and in at most half of the other places.` : "no cell fires here and not elsewhere. Try another threshold.");
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
