// What views share: the data, elements, numbers, and the state with those who listen to it.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const MODELS = DATA.models, RUNS = MODELS.filter((m) => m.kind === "run");
const BY = Object.fromEntries(MODELS.map((m) => [m.key, m]));
const COMMON = new Set(DATA.common);
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((c) => c !== null && c !== undefined && c !== ""));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Three decimals, as tables of this project have it; scientific where they would hide the value. */
function fmt(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : value.toFixed(size >= 100 ? 1 : 3);
  return text.replace("-", "−");
}

function menu(select, options, chosen) {
  select.replaceChildren(...options.map(([value, label]) => el("option", { value, selected: value === chosen }, label)));
  select.value = chosen;
}

/** State of the page: every view reads it, and says what it listens to. */
const state = { a: "", b: "", kept: RUNS.map((m) => m.key), row: null, split: "", measure: "", query: "" };
const listeners = {};
function on(names, run) {
  for (const name of names.split(" ")) (listeners[name] ||= []).push(run);
}
function set(changes) {
  Object.assign(state, changes);
  for (const run of new Set(Object.keys(changes).flatMap((name) => listeners[name] || []))) run();
}

const label = (key) => BY[key].label;
/** Class by the place a model has: a, b, original, retrained, or none. */
function place(key) {
  return key === state.a ? "a" : key === state.b ? "b" : BY[key].kind === "run" ? "" : BY[key].kind;
}
const text = (number) => (number === null || number === undefined ? null : DATA.texts[number]);
const words = (said) => said.toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];

const telling = new Map();
/** Words of a row's reference that its prompt does not give away. */
function tellingWords(row) {
  if (!telling.has(row)) {
    const given = new Set(words(DATA.rows.prompt[row]));
    telling.set(row, new Set(words(DATA.rows.reference[row]).filter((w) => !given.has(w) && !COMMON.has(w))));
  }
  return telling.get(row);
}

/** An answer with the words of the reference marked that the prompt did not give away. */
function marked(said, row) {
  if (said === null) return [el("span", { class: "quiet" }, "(not asked)")];
  if (!said) return [el("span", { class: "quiet" }, "(empty answer)")];
  const known = tellingWords(row);
  return said.split(/([\p{L}\p{N}_]+)/u).filter(Boolean).map((piece) => (known.has(piece.toLowerCase()) ? el("mark", {}, piece) : piece));
}

const rowName = (row) => DATA.rows.prompt[row] || DATA.rows.reference[row] || DATA.rows.id[row];

/** A table; cells are text or elements. `sort`: {by, down, set(column)} makes its headings buttons. */
function table(name, columns, rows, { sort = null, cls = "" } = {}) {
  const head = columns.map((column) => {
    const { title, num, key, extra } = typeof column === "string" ? { title: column } : column;
    const active = sort && key !== undefined && sort.by === key;
    return el("th", { scope: "col", class: `${num ? "num" : ""} ${extra || ""}`,
      "aria-sort": sort && key !== undefined ? (active ? (sort.down ? "descending" : "ascending") : "none") : null },
    sort && key !== undefined ? el("button", { type: "button", class: "sort", "data-key": key, onclick: () => sort.set(key) }, title) : title);
  });
  return el("table", { class: cls }, el("caption", { class: "hidden" }, name), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}

/** What a view lacks, and the command that makes it. */
function missing(what, command = "") {
  return el("div", { class: "missing" }, el("p", {}, what), command ? el("p", {}, el("code", {}, command)) : null);
}
