// Screen: figures of four dimensions, limits and boxes that keep some runs, the Pareto front, and the table of runs.

const DIMENSIONS = DATA.dimensions.filter((d) => d.choices.length);
const chosen = Object.fromEntries(DIMENSIONS.map((d) => [d.key, d.choices[0]]));
const limits = Object.fromEntries(DIMENSIONS.map((d) => [d.key, [null, null]]));
const figureOf = (key, dimension) => chosen[dimension].values[key] ?? null;
const runSort = { by: "key", down: false };

/** Runs that no other beats: better in one dimension and no worse in all. Runs without a figure are not among them. */
function front() {
  const full = RUNS.map((r) => r.key).filter((key) => DIMENSIONS.every((d) => figureOf(key, d.key) !== null));
  const worth = (key) => DIMENSIONS.map((d) => figureOf(key, d.key) * (chosen[d.key].better === "high" ? 1 : -1));
  const merits = new Map(full.map((key) => [key, worth(key)]));
  return new Set(full.filter((key) => !full.some((other) => {
    const mine = merits.get(key), theirs = merits.get(other);
    return theirs.every((v, i) => v >= mine[i]) && theirs.some((v, i) => v > mine[i]);
  })));
}

function keep() {
  const best = front(), only = $("only-front").checked;
  const kept = RUNS.map((r) => r.key).filter((key) => (!only || best.has(key)) && DIMENSIONS.every((d) => {
    const [low, high] = limits[d.key], value = figureOf(key, d.key);
    return (low === null && high === null) || (value !== null && (low === null || value >= low) && (high === null || value <= high));
  }));
  const moved = follow(kept);
  for (const slot of Object.keys(moved)) away[slot] = moved[slot] === away[slot] ? null : away[slot] ?? state[slot];
  filtering = true;
  set({ kept, ...moved });
  filtering = false;
}

/** The models that a filter took away from A and B; each comes back with its run, unless another was chosen. */
const away = { a: null, b: null };
let filtering = false;
for (const slot of ["a", "b"]) on(slot, () => { if (!filtering) away[slot] = null; });

/** A model that was filtered out gives its place to the first one that is kept. */
function follow(kept) {
  const keys = [...kept, ...MODELS.filter((m) => m.kind !== "run").map((m) => m.key)];
  if (!keys.length) return {};
  const first = (other) => keys.find((key) => key !== other) || keys[0], wish = (slot) => [away[slot], state[slot]].find((key) => keys.includes(key));
  const a = wish("a") ?? first(state.b), b = wish("b") ?? first(a);
  return { ...(a === state.a ? {} : { a }), ...(b === state.b ? {} : { b }) };
}

function showLimits() {
  $("limits").replaceChildren(...DIMENSIONS.map((d) => {
    const choose = el("select", { "aria-label": `${d.title} measured by`, "data-measure": d.key, onchange: () => {
      chosen[d.key] = d.choices.find((c) => c.name === choose.value);
      limits[d.key] = [null, null];
      showLimits(); keep();
    } });
    menu(choose, d.choices.map((c) => [c.name, c.title]), chosen[d.key].name);
    const bound = (i, name) => el("label", {}, name, el("input", { type: "number", step: "any", "data-limit": `${d.key}-${i}`,
      "aria-label": `${d.title} ${name}`, value: limits[d.key][i], oninput: (event) => {
        limits[d.key][i] = event.target.value === "" ? null : Number(event.target.value);
        keep();
      } }));
    return el("fieldset", {}, el("legend", {}, `${d.title} `, el("span", { class: "quiet" }, chosen[d.key].better === "high" ? "higher is better" : "lower is better")),
      choose, el("div", { class: "from-to" }, bound(0, "from"), bound(1, "to")));
  }));
}

/** Two dimensions against each other. A box drawn here becomes limits of both. */
function plane(x, y) {
  const view = figure(`${x.title} against ${y.title.toLowerCase()}`);
  const render = () => {
    const shown = MODELS.filter((m) => figureOf(m.key, x.key) !== null && figureOf(m.key, y.key) !== null);
    const best = front();
    const says = (d) => `${clip(chosen[d.key].title, 300)} (${chosen[d.key].better === "high" ? "higher" : "lower"} is better)`;
    const frame = axes(view.plot, `${x.title} against ${y.title.toLowerCase()} of ${shown.length} models. Arrow keys move between them.`,
      { domain: domain(shown.map((m) => figureOf(m.key, x.key))), title: says(x) },
      { domain: domain(shown.map((m) => figureOf(m.key, y.key))), title: says(y) }, { role: "group" });
    brushable(frame, x, y);
    const marks = [];
    for (const m of shown) {
      const cx = frame.x(figureOf(m.key, x.key)), cy = frame.y(figureOf(m.key, y.key)), out = m.kind === "run" && !state.kept.includes(m.key);
      const said = `${m.label}: ${x.title.toLowerCase()} ${fmt(figureOf(m.key, x.key))}, ${y.title.toLowerCase()} ${fmt(figureOf(m.key, y.key))}` +
        `${best.has(m.key) ? ", on the Pareto front" : ""}${out ? ", left out" : ""}`;
      const cls = `point ${out ? "out" : place(m.key)} ${best.has(m.key) ? "front" : ""}`;
      const mark = m.kind === "retrained" ? draw("path", { d: `M${cx} ${cy - 8}l8 8l-8 8l-8 -8z` })
        : m.kind === "original" ? draw("rect", { x: cx - 6, y: cy - 6, width: 12, height: 12 }) : draw("circle", { cx, cy, r: 7 });
      fill(mark, { class: cls, role: "button", tabindex: marks.length ? -1 : 0, "aria-label": `${said}. Enter makes it A, B makes it B.`,
        "data-key": m.key, onclick: (event) => choose(event.shiftKey ? "b" : "a", m.key), onkeydown: (event) => walk(event, marks, m.key) },
      [draw("title", {}, `${said}. Click: A, Shift and click: B.`)]);
      marks.push(mark);
      frame.svg.append(mark);
      if (m.kind === "run") frame.svg.append(draw("text", { class: "name", x: cx, y: cy - 11, "text-anchor": "middle", "aria-hidden": "true" }, m.key));
    }
    const kinds = { run: draw("circle", { cx: 11, cy: 6, r: 5 }), original: draw("rect", { x: 6, y: 1, width: 10, height: 10 }), retrained: draw("path", { d: "M11 -1l7 7l-7 7l-7 -7z" }) };
    view.legend.replaceChildren(...Object.keys(kinds).filter((kind) => shown.some((m) => m.kind === kind)).map((kind) => el("li", {},
      draw("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" }, fill(kinds[kind], { class: `point ${kind}` }, [])), kind)));
    view.note.textContent = `Ringed: on the Pareto front of all dimensions (${best.size} of ${RUNS.length} runs); no other is as good in each and better in one.`;
    view.numbers(() => [["Model", x.title, y.title], shown.map((m) => [m.label, figureOf(m.key, x.key), figureOf(m.key, y.key)])]);
  };
  on("kept a b size", render);
  return { node: view.node, render };
}

function walk(event, marks, key) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step) {
    const next = marks[(marks.indexOf(event.target) + step + marks.length) % marks.length];
    marks.forEach((m) => m.setAttribute("tabindex", m === next ? 0 : -1));
    next.focus();
  } else if (event.key === "Enter" || event.key === " " || event.key.toLowerCase() === "a") choose("a", key);
  else if (event.key.toLowerCase() === "b") choose("b", key);
  else return;
  event.preventDefault();
}

/** Make a model A or B, and keep the keyboard where it was. */
function choose(slot, key) {
  const at = document.activeElement, inside = at && at.closest("#planes figure, #runs"), name = at && at.dataset.key;
  set({ [slot]: key });
  if (inside && name && !at.isConnected) inside.querySelector(`[data-key="${CSS.escape(name)}"]${at.name ? `[name=${at.name}]` : ""}`)?.focus();
}

function brushable(frame, x, y) {
  const box = draw("rect", { class: "brush", "pointer-events": "none" });
  const area = draw("rect", { class: "area brushable", x: frame.left - 20, y: 0, width: frame.right - frame.left + 32, height: frame.bottom + 10 }); // a box may begin beside the axes
  frame.svg.append(area, box);
  const at = (event) => {
    const box = frame.svg.getBoundingClientRect(), k = frame.svg.viewBox.baseVal.width / box.width;
    const inside = (v, low, high) => Math.min(high, Math.max(low, v));
    return [inside((event.clientX - box.left) * k, frame.left, frame.right), inside((event.clientY - box.top) * k, frame.top, frame.bottom)];
  };
  const extent = (from, to) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1])];
  const show = ([left, top, width, height]) => Object.entries({ x: left, y: top, width, height }).forEach(([k, v]) => box.setAttribute(k, v));
  const limited = [x, y].some((d) => limits[d.key].some((v) => v !== null));
  if (limited) {
    const edge = (d, axis, i) => (limits[d.key][i] === null ? axis[i] : limits[d.key][i]);
    show(extent([frame.x(edge(x, [frame.x.back(frame.left), frame.x.back(frame.right)], 0)), frame.y(edge(y, [frame.y.back(frame.bottom), frame.y.back(frame.top)], 0))],
      [frame.x(edge(x, [frame.x.back(frame.left), frame.x.back(frame.right)], 1)), frame.y(edge(y, [frame.y.back(frame.bottom), frame.y.back(frame.top)], 1))]));
  }
  let from = null;
  area.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") return; // a finger scrolls the page; limits are entered
    from = at(event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => from && show(extent(from, at(event))));
  area.addEventListener("pointerup", (event) => {
    if (!from) return;
    const to = at(event), [left, top, width, height] = extent(from, to), round = (v) => +v.toPrecision(4);
    from = null;
    const none = width < 4 && height < 4; // a click, which empties the limits of this chart
    limits[x.key] = none ? [null, null] : [round(frame.x.back(left)), round(frame.x.back(left + width))];
    limits[y.key] = none ? [null, null] : [round(frame.y.back(top + height)), round(frame.y.back(top))];
    showLimits(); keep();
  });
}

function showRuns() {
  const best = front(), down = runSort.down ? -1 : 1;
  const value = (m) => (runSort.by === "key" ? RUNS.indexOf(m) : runSort.by === "label" ? m.recipe : runSort.by === "verdict" ? m.verdict : figureOf(m.key, runSort.by));
  const order = (p, q) => {
    const [v, w] = [value(p), value(q)];
    return v === null ? 1 : w === null ? -1 : (typeof v === "string" ? v.localeCompare(w) : v - w) * down;
  };
  const pick = (slot, m) => el("td", { class: "pick" }, el("input", { type: "radio", name: `pick-${slot}`, checked: state[slot] === m.key, "data-key": m.key,
    "aria-label": `${m.label} as ${slot.toUpperCase()}`, onchange: () => choose(slot, m.key) }));
  const line = (m) => el("tr", { class: m.kind === "run" && !state.kept.includes(m.key) ? "out" : "", "data-run": m.key }, pick("a", m), pick("b", m),
    el("th", { scope: "row" }, m.label), el("td", {}, m.kind === "run" ? `${m.sign} ${m.verdict}` : "reference"),
    DIMENSIONS.map((d) => el("td", { class: "num" }, fmt(figureOf(m.key, d.key)))), el("td", {}, best.has(m.key) ? "yes" : ""));
  const sort = { ...runSort, set: (key) => {
    Object.assign(runSort, { by: key, down: runSort.by === key && !runSort.down });
    showRuns();
    $("runs").querySelector(`[data-key="${key}"].sort`).focus();
  } };
  $("runs").replaceChildren(table("Runs and their figures", [{ title: "A", extra: "pick" }, { title: "B", extra: "pick" }, { title: "Run", key: "key" },
    { title: "Verdict", key: "verdict" }, ...DIMENSIONS.map((d) => ({ title: d.title, key: d.key, num: true })), "Pareto front"],
  [...[...RUNS].sort(order), ...MODELS.filter((m) => m.kind !== "run")].map(line), { sort }));
}

function showKept() {
  const gone = ["a", "b"].filter((slot) => away[slot] !== null).map((slot) => `${label(away[slot])} is left out, so ${slot.toUpperCase()} is ${label(state[slot])}`);
  $("kept").textContent = [`${state.kept.length} of ${RUNS.length} run${RUNS.length === 1 ? "" : "s"}`, ...gone].join(". ");
  $("all").hidden = state.kept.length === RUNS.length;
}
$("all").addEventListener("click", () => {
  for (const d of DIMENSIONS) limits[d.key] = [null, null];
  $("only-front").checked = false;
  showLimits(); keep();
  $("only-front").focus();
});
$("only-front").addEventListener("change", keep);
on("kept a b", showRuns);
on("kept", showKept);

const byKey = Object.fromEntries(DIMENSIONS.map((d) => [d.key, d]));
const PAIRS = [["forget", "utility"], ["privacy", "cost"]].map((pair) => pair.map((key) => byKey[key]).filter(Boolean)).filter((p) => p.length === 2);
$("planes").replaceChildren(...PAIRS.map(([x, y]) => plane(x, y).node));
if (!DIMENSIONS.length) $("limits").replaceChildren(missing("None of these runs has been audited, so there are no figures.", "expunge audit RUN"));
