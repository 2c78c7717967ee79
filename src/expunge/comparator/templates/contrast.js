// Contrast: the rows in which A and B differ most, with both answers; all rows in a table; one model against the other.

const SAID = "answers", PAGE = 50;
const rowSort = { by: "difference", down: true };
let found = [], open = new Set(), shownRows = PAGE;

/** How little two answers share: 1 - F1 of their words; 0 for equal ones. */
const cached = new Map();
function unlike(first, second) {
  if (first === second) return 0;
  const bag = (n) => cached.get(n) || cached.set(n, words(text(n))).get(n);
  const a = bag(first), b = bag(second), left = new Map();
  for (const w of a) left.set(w, (left.get(w) || 0) + 1);
  let common = 0;
  for (const w of b) if (left.get(w) > 0) { common += 1; left.set(w, left.get(w) - 1); }
  return a.length + b.length ? 1 - (2 * common) / (a.length + b.length) : 0;
}

/** Rows that both were asked, as {row, a, b, difference}; a and b are null where only answers are compared. */
function differences() {
  const pairs = [], said = state.measure === SAID, from = said ? DATA.answers : DATA.values[state.measure] || {};
  const mine = from[state.a], other = from[state.b];
  if (!mine || !other) return pairs;
  const wanted = words(state.query);
  for (let row = 0; row < DATA.rows.id.length; row += 1) {
    const a = mine[row], b = other[row];
    if (a === null || b === null || (state.split && DATA.rows.split[row] !== state.split)) continue;
    if (wanted.length && !matches(row, wanted)) continue;
    pairs.push(said ? { row, a: null, b: null, difference: unlike(a, b) } : { row, a, b, difference: a - b });
  }
  return pairs;
}
function matches(row, wanted) {
  const held = [DATA.rows.prompt[row], DATA.rows.reference[row], DATA.rows.entity[row], DATA.rows.id[row], answer(state.a, row), answer(state.b, row)]
    .join(" ").toLowerCase();
  return wanted.every((w) => held.includes(w));
}
const answer = (key, row) => (DATA.answers[key] ? text(DATA.answers[key][row]) : null);
const value = (key, row) => (DATA.values[state.measure] && DATA.values[state.measure][key] ? DATA.values[state.measure][key][row] : null);

function sorted(pairs) {
  const by = { row: (p) => p.row, a: (p) => p.a, b: (p) => p.b, difference: (p) => Math.abs(p.difference) }[rowSort.by];
  return [...pairs].sort((p, q) => (by(p) - by(q)) * (rowSort.down ? -1 : 1) || p.row - q.row);
}
const biggest = (pairs) => [...pairs].sort((p, q) => Math.abs(q.difference) - Math.abs(p.difference) || p.row - q.row);

function side(slot, pair) {
  const key = state[slot];
  return el("div", { class: `slot-${slot}` }, el("h4", {}, el("span", { class: `tag-${slot}` }, slot.toUpperCase()), ` ${label(key)}`),
    pair[slot] === null ? null : el("p", { class: "value" }, `${state.measure} ${fmt(pair[slot])}`), el("p", { dir: "auto" }, marked(answer(key, pair.row), pair.row)));
}
function told(pair) {
  if (pair.a === null) return `The answers differ by ${fmt(pair.difference)} (0: the same words, 1: none in common).`;
  return `${state.measure}: ${fmt(Math.abs(pair.difference))} ${pair.difference > 0 ? "higher in A" : "higher in B"}`;
}

function showTop() {
  $("top-title").textContent = `The three rows that differ most in ${state.measure === SAID ? "their answers" : state.measure}`;
  const three = biggest(found).slice(0, 3).filter((p) => p.difference);
  $("top").replaceChildren(...(three.length ? three.map((pair, i) => el("article", { class: "card answer", "data-row": pair.row },
    el("p", { class: "rank" }, `${i + 1}. ${DATA.rows.split[pair.row]} row`),
    el("p", { class: "question", dir: "auto" }, rowName(pair.row)), el("p", { class: "reference", dir: "auto" }, `Reference: ${DATA.rows.reference[pair.row] || "unknown"}`),
    el("div", { class: "models" }, side("a", pair), side("b", pair)), el("p", { class: "diff" }, told(pair)))) : [empty()]));
}
function empty() {
  if (found.length) return missing("A and B do not differ in any of these rows.");
  if (!DATA.measures.length && !Object.keys(DATA.answers).length) return missing("No audit has kept rows.", "expunge audit RUN");
  return missing(state.query ? "No row has these words." : "A and B were not both asked these rows. Choose other models, rows or another measure.");
}

function showSummary() {
  const scored = found.filter((p) => p.a !== null), near = 0.01;
  const higher = scored.filter((p) => p.difference >= near).length, lower = scored.filter((p) => p.difference <= -near).length;
  const mean = scored.reduce((sum, p) => sum + p.difference, 0) / (scored.length || 1);
  const about = DATA.measures.find((m) => m.name === state.measure);
  $("summary").textContent = !found.length ? "No rows." : scored.length
    ? `${scored.length} rows: ${higher} are higher in A, ${lower} in B, ${scored.length - higher - lower} differ by less than ${near}. Mean of A − B: ${fmt(mean)}.${about && about.about ? ` ${state.measure}: ${about.about}` : ""}`
    : `${found.length} rows: ${found.filter((p) => p.difference === 0).length} have the same answer.`;
}

function bar(pair, most) {
  const width = (Math.abs(pair.difference) / (most || 1)) * 64;
  return el("span", { class: `change ${pair.difference > 0 || pair.a === null ? "a" : "b"}`, style: `width:${width.toFixed(0)}px`, "aria-hidden": "true" });
}
function showRows() {
  const list = sorted(found), most = found.reduce((m, p) => Math.max(m, Math.abs(p.difference)), 0), scored = found.length && found[0].a !== null;
  const columns = [{ title: "Row", key: "row" }, "Set", ...(scored ? [{ title: "A", key: "a", num: true }, { title: "B", key: "b", num: true }] : []),
    { title: "Difference", key: "difference", num: true }, { title: "A says", extra: "said-head" }, { title: "B says", extra: "said-head" }];
  const rows = list.slice(0, shownRows).flatMap((pair) => {
    const isOpen = open.has(pair.row), name = `row-${pair.row}`;
    const line = el("tr", { class: pair.row === state.row ? "chosen" : "", "data-row": pair.row }, el("th", { scope: "row" },
      el("button", { type: "button", "aria-expanded": String(isOpen), "aria-controls": isOpen ? name : null, onclick: () => toggle(pair.row) }, rowName(pair.row))),
    el("td", {}, DATA.rows.split[pair.row]), scored ? [el("td", { class: "num" }, fmt(pair.a)), el("td", { class: "num" }, fmt(pair.b))] : null,
    el("td", { class: "num" }, fmt(pair.difference), bar(pair, most)),
    ["a", "b"].map((s) => el("td", { class: "said" }, el("span", { dir: "auto" }, marked(answer(state[s], pair.row), pair.row)))));
    return isOpen ? [line, el("tr", { class: "open", id: name }, el("td", { colspan: columns.length }, details(pair.row)))] : [line];
  });
  const sort = { ...rowSort, set: (key) => {
    Object.assign(rowSort, { by: key, down: rowSort.by === key ? !rowSort.down : key !== "row" });
    showRows();
    $("rows").querySelector(`.sort[data-key="${key}"]`).focus();
  } };
  $("rows").replaceChildren(found.length ? table("Rows by how much they differ", columns, rows, { sort, cls: "rows" }) : empty());
  $("more").hidden = list.length <= shownRows;
  $("more").textContent = `Show ${Math.min(PAGE, list.length - shownRows)} more of ${list.length} rows`;
}
function toggle(row) {
  open.has(row) ? open.delete(row) : open.add(row);
  set({ row });
  $("rows").querySelector(`tr[data-row="${row}"] button`).focus();
}
/** All that is known of a row: the answers of A, B and the references, and every measure of A and B. */
function details(row) {
  const keys = [...new Set([state.a, state.b, ...MODELS.filter((m) => m.kind !== "run").map((m) => m.key)])];
  const said = keys.filter((key) => answer(key, row) !== null);
  const measures = DATA.measures.map((m) => [m.name, ...["a", "b"].map((s) => (DATA.values[m.name][state[s]] || [])[row] ?? null)]).filter(([, a, b]) => a !== null || b !== null);
  return [el("p", { class: "quiet" }, `${DATA.rows.split[row]} row ${DATA.rows.id[row]}${DATA.rows.entity[row] ? `, about ${DATA.rows.entity[row]}` : ""}`),
    el("p", { dir: "auto" }, `Reference: ${DATA.rows.reference[row] || "unknown"}`),
    el("div", { class: "models" }, said.map((key) => el("div", { class: key === state.a ? "slot-a" : key === state.b ? "slot-b" : BY[key].kind },
      el("h4", {}, label(key)), el("p", { dir: "auto" }, marked(answer(key, row), row))))),
    el("ul", { class: "legend" }, measures.map(([name, a, b]) => el("li", {}, `${name}: A ${fmt(a)}, B ${fmt(b)}`)))];
}

const versus = figure("Every row: A against B");
function showVersus() {
  const scored = found.filter((p) => p.a !== null);
  $("against").hidden = !scored.length;
  if (!scored.length) return;
  const both = domain(scored.flatMap((p) => [p.a, p.b]), 0.04), idle = "On the line A and B agree. Point at a row to read it, click to choose it.";
  const frame = axes(versus.plot, `${state.measure} of ${scored.length} rows in A and in B. The table of rows above has the same numbers.`,
    { domain: both, title: `${state.measure} in A` }, { domain: both, title: `${state.measure} in B` });
  frame.svg.append(draw("path", { class: "line", d: `M${frame.x(both[0])} ${frame.y(both[0])}L${frame.x(both[1])} ${frame.y(both[1])}` }));
  const points = scored.map((p) => [p.row, frame.x(p.a), frame.y(p.b)]);
  frame.svg.append(dots(points.map(([, x, y]) => [x, y]), "circle", ""));
  ring(frame, points);
  nearby(frame, points, versus.note, idle);
  versus.note.textContent = idle;
  versus.numbers(() => [["Row", "A", "B"], biggest(scored).map((p) => [rowName(p.row), p.a, p.b])]);
}

function showContrast() {
  found = differences();
  for (const slot of ["a", "b"]) for (const node of document.getElementsByClassName(`${slot}-name`)) node.textContent = label(state[slot]);
  showTop(); showSummary(); showRows(); showVersus();
}
on("a b split measure query", () => { shownRows = PAGE; open = new Set(); showContrast(); });
on("row", () => { showRows(); showVersus(); });
on("size", showVersus);
$("against").append(versus.node);
$("split").addEventListener("change", (event) => set({ split: event.target.value }));
$("measure").addEventListener("change", (event) => set({ measure: event.target.value }));
$("query").addEventListener("input", (event) => set({ query: event.target.value }));
$("more").addEventListener("click", () => { shownRows += PAGE; showRows(); });
