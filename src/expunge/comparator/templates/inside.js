// Inside: similarity of hidden states layer by layer, change of weights, and hidden states of single rows in two dimensions.

const INSIDE = DATA.inside, SETS = Object.keys(INSIDE.cka), LAYERS = Object.keys(INSIDE.map);
const STYLE = { forget: "cross", retain: "circle", holdout: "diamond" };
const inside = { set: SETS[0], layer: LAYERS[LAYERS.length - 1] };

function alike(first, second) {
  if (first === second) return INSIDE.layers.map(() => 1);
  const pairs = INSIDE.cka[inside.set];
  return pairs[`${first}|${second}`] || pairs[`${second}|${first}`] || null;
}

function showAlike(view) {
  const references = MODELS.filter((m) => m.kind !== "run" && (m.key === "original" || m.key === "retrained")).map((m) => m.key);
  const lines = [["ab", "A with B", alike(state.a, state.b)],
    ...references.flatMap((r) => ["a", "b"].map((s) => [`${s}`, `${s.toUpperCase()} with the ${label(r)}`, state[s] === r ? null : alike(state[s], r), r]))]
    .filter(([, , values]) => values);
  const note = "1: equal up to rotation, shift and scale; about 0: unrelated (unbiased linear CKA, at most 128 rows).";
  if (!lines.length) { view.plot.replaceChildren(missing("The hidden states of A and B were not stored for the same rows.")); view.legend.replaceChildren(); return; }
  const frame = axes(view.plot, `Similarity by layer on ${inside.set} rows: ${lines.map(([, name, v]) => `${name} ${fmt(v[0])} to ${fmt(v[v.length - 1])}`).join("; ")}`,
    { domain: domain(INSIDE.layers, 0.03), title: "layer", ticks: INSIDE.layers, text: String }, { domain: domain([0, 1, ...lines.flatMap(([, , v]) => v)], 0.03), title: "CKA" });
  const dash = (r) => (r === "retrained" ? "3 3" : r === "original" ? "9 4" : null);
  for (const [cls, , values, r] of lines) {
    const line = path(frame, INSIDE.layers.map((l, i) => [l, values[i]]), cls);
    if (r) line.setAttribute("style", `stroke-dasharray:${dash(r)};stroke-width:2`);
    frame.svg.append(line);
  }
  legend(view.legend, lines.map(([cls, name]) => [cls, name]));
  [...view.legend.querySelectorAll("path")].forEach((p, i) => lines[i][3] && p.setAttribute("style", `stroke-dasharray:${dash(lines[i][3])};stroke-width:2`));
  view.note.textContent = note;
  view.numbers(() => [["Layer", ...lines.map(([, name]) => name)], INSIDE.layers.map((l, i) => [l, ...lines.map(([, , v]) => v[i])])]);
}

function showWeights(host) {
  const sides = ["a", "b"].map((s) => new Map(INSIDE.weights[state[s]] || []));
  const parts = [...new Set(sides.flatMap((m) => [...m.keys()]))], most = Math.max(1e-12, ...sides.flatMap((m) => [...m.values()]));
  const cell = (m, part, s) => el("td", {}, el("span", { class: "barcell" }, el("i", { class: s, style: `width:${((m.get(part) || 0) / most) * 90}px`, "aria-hidden": "true" }), fmt(m.get(part))));
  host.replaceChildren();
  fill(host, {}, [el("h3", {}, "How far the weights moved"), parts.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Change of weights" },
    table("Change of weights by part, as a share of the original's norm", ["Part", "A", "B"],
      parts.map((part) => el("tr", {}, el("th", { scope: "row" }, part), cell(sides[0], part, "a"), cell(sides[1], part, "b")))))
    : missing("The audits of A and B have not stored it.", "expunge audit RUN --suite weight_distance"),
  parts.length ? el("p", { class: "quiet" }, "Distance from the original's weights over their norm, part by part.") : null]);
}

/** States of forget, retain and holdout rows of one model; the row that is chosen is ringed in both drawings. */
function showMap(view, slot, xy) {
  const drawn = INSIDE.map[inside.layer].points[state[slot]];
  view.head.replaceChildren(el("span", { class: `tag-${slot}` }, slot.toUpperCase()), ` ${label(state[slot])}`);
  if (!drawn) { view.plot.replaceChildren(missing("Its hidden states were not stored.")); view.legend.replaceChildren(); view.note.textContent = ""; return; }
  const share = INSIDE.map[inside.layer].share, name = INSIDE.how === "pca" ? "principal component" : "UMAP axis";
  const idle = share === null ? "Fitted for each model by itself." : `Both models on the same axes, which hold ${fmt(100 * share)} % of the variance.`;
  const frame = axes(view.plot, `Hidden states after layer ${inside.layer} of ${drawn.length} rows in ${label(state[slot])}`,
    { domain: xy[0], title: `first ${name}` }, { domain: xy[1], title: `second ${name}` });
  const points = drawn.map(([row, x, y]) => [row, frame.x(x), frame.y(y)]), sets = Object.keys(STYLE).filter((s) => drawn.some(([row]) => DATA.rows.split[row] === s));
  for (const s of ["retain", "holdout", "forget"].filter((s) => sets.includes(s))) {
    frame.svg.append(dots(points.filter(([row]) => DATA.rows.split[row] === s).map(([, x, y]) => [x, y]), STYLE[s], s));
  }
  ring(frame, points);
  nearby(frame, points, view.note, idle);
  view.note.textContent = state.row !== null && points.some(([row]) => row === state.row) ? `Ringed: ${rowName(state.row)}` : idle;
  legend(view.legend, sets.map((s) => [s, `${s} rows`, STYLE[s]]));
  view.numbers(() => [["Row", "Set", "x", "y"], drawn.map(([row, x, y]) => [rowName(row), DATA.rows.split[row], x, y])]);
}

(function showInside() {
  const host = $("inside"), command = "expunge audit RUN --suite \"forget.cka,retain.cka,holdout.cka,weight_distance\"";
  const cka = SETS.length ? figure("Similarity of hidden states, layer by layer") : null, moved = el("div", { class: "card" });
  const maps = LAYERS.length ? ["a", "b"].map((slot) => [figure("Hidden states"), slot]) : [];
  const select = (name, options, key) => {
    const node = el("select", { "data-inside": key, onchange: () => { inside[key] = node.value; render(); } });
    menu(node, options, inside[key]);
    return el("label", {}, name, node);
  };
  host.append(el("div", { class: "controls" }, SETS.length ? select("Rows of the similarity", SETS.map((s) => [s, s]), "set") : null,
    LAYERS.length ? select("Layer of the drawing", LAYERS.map((l) => [l, l]), "layer") : null),
  el("div", { class: "two" }, cka ? cka.node : missing("No audit has stored hidden states of two models.", command), moved),
  el("div", { class: "two" }, maps.length ? maps.map(([view]) => view.node) : missing("There are no hidden states to draw.", command)));
  function render() {
    if (cka) showAlike(cka);
    showWeights(moved);
    if (!maps.length) return;
    const both = maps.map(([, slot]) => INSIDE.map[inside.layer].points[state[slot]] || []);
    for (const [i, [view, slot]] of maps.entries()) {
      const of = INSIDE.how === "pca" ? both.flat() : both[i];
      showMap(view, slot, [domain(of.map((p) => p[1])), domain(of.map((p) => p[2]))]);
    }
  }
  on("a b row size", render);
})();
