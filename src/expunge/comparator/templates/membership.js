// Membership: forget rows against a control by one number and one threshold. arXiv 2508.12730, for answers of text.

const MEMBER = DATA.member, STATISTICS = Object.keys(MEMBER.values), DELTA = 1e-5;
const attack = { statistic: STATISTICS.includes("confidence") ? "confidence" : STATISTICS[0], control: "retrained", above: true, step: Math.floor(MEMBER.steps / 2), exact: null };

/** 1 - 2^-eps, eps the smaller of both log-ratios: 0 where the threshold tells nothing apart. */
function attackScore(fpr, fnr) {
  if (Math.max(fpr, fnr) >= 1 - DELTA) return 0;
  const ratio = (a, b) => (b === 0 ? Infinity : Math.log(1 - DELTA - a) - Math.log(b));
  return 1 - 2 ** -Math.max(0, Math.min(ratio(fpr, fnr), ratio(fnr, fpr)));
}

/** Forget rows of a model and what they are told from, as [[row, value], ...]; null where one is not known. */
function sides(key, statistic = attack.statistic) {
  const mine = MEMBER.values[statistic][key], split = DATA.rows.split;
  if (!mine) return null;
  const of = (values, wanted) => values.map((v, row) => [row, v]).filter(([row, v]) => v !== null && split[row] === wanted);
  if (attack.control === "holdout") return both(of(mine, "forget"), of(mine, "holdout"));
  const other = MEMBER.values[statistic][attack.control];
  if (!other) return null;
  return both(of(mine, "forget").filter(([row]) => other[row] !== null), of(other, "forget").filter(([row]) => mine[row] !== null));
}
const ordered = (rows) => Float64Array.from(rows, ([, v]) => v).sort();
const both = (forget, control) => (forget.length && control.length
  ? { forget, control, low: { forget: ordered(forget), control: ordered(control) } } : null);

const flagged = (rows, at) => rows.filter(([, v]) => (attack.above ? v >= at : v <= at));
/** How many of the sorted values are flagged; there are two hundred thresholds, so they are not gone through each time. */
function count(sorted, at) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (attack.above ? sorted[middle] < at : sorted[middle] <= at) low = middle + 1; else high = middle;
  }
  return attack.above ? sorted.length - low : low;
}
function rates(pair, at) {
  const hit = count(pair.low.forget, at), wrong = count(pair.low.control, at);
  return { hit, wrong, fnr: 1 - hit / pair.forget.length, fpr: wrong / pair.control.length };
}
function range(pairs) {
  let low = Infinity, high = -Infinity;
  for (const pair of pairs) for (const [, v] of [...pair.forget, ...pair.control]) { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}
const thresholds = ([low, high]) => Array.from({ length: MEMBER.steps }, (_, i) => low + ((high - low) * i) / (MEMBER.steps - 1));

/** The strongest threshold of both directions over the range of these two sides. */
function strongest(pair) {
  const before = attack.above, best = { score: -1 };
  for (const above of [true, false]) {
    attack.above = above;
    for (const at of thresholds(range([pair]))) {
      const r = rates(pair, at), score = attackScore(r.fpr, r.fnr);
      if (score > best.score) Object.assign(best, { score, at, above });
    }
  }
  attack.above = before;
  return best;
}

function histogram(view, slot, pair, at, all) {
  const bins = 30, width = (all[1] - all[0]) / bins || 1;
  const shares = (rows) => rows.reduce((c, [, v]) => { c[Math.min(bins - 1, Math.floor((v - all[0]) / width))] += 1 / rows.length; return c; }, Array(bins).fill(0));
  const up = shares(pair.forget), down = shares(pair.control), most = Math.max(...up, ...down);
  const r = rates(pair, at);
  const frame = axes(view.plot, `${attack.statistic}: forget rows upwards, control downwards; threshold ${fmt(at)}`, { domain: domain(all, 0.02), title: attack.statistic },
    { domain: [-most * 1.05, most * 1.05], title: "share of rows", text: (v) => tickText(Math.abs(v)) }, { height: 220 });
  const bar = (i, share, cls) => draw("rect", { class: cls, x: frame.x(all[0] + i * width) + 0.5, width: Math.max(1, frame.x(width) - frame.x(0) - 1),
    y: Math.min(frame.y(0), frame.y(share)), height: Math.abs(frame.y(share) - frame.y(0)) });
  up.forEach((share, i) => share && frame.svg.append(bar(i, share, `bars-up fill-${slot}`)));
  down.forEach((share, i) => share && frame.svg.append(bar(i, -share, "bars-down")));
  frame.svg.append(draw("line", { class: "cut", x1: frame.x(at), x2: frame.x(at), y1: frame.top, y2: frame.bottom }));
  return r;
}

function curve(view, slot, pair, at, all) {
  const points = thresholds(all).map((t) => { const r = rates(pair, t); return [t, attackScore(r.fpr, r.fnr), r.fpr, r.fnr]; });
  const frame = axes(view.plot, "Attack score and error rates over the threshold", { domain: domain(all, 0.02), title: "threshold" }, { domain: [-0.03, 1.03], title: "" }, { height: 200 });
  frame.svg.append(path(frame, points.map((p) => [p[0], p[2]]), "original"), path(frame, points.map((p) => [p[0], p[3]]), "retrained"), path(frame, points.map((p) => [p[0], p[1]]), slot),
    draw("line", { class: "cut", x1: frame.x(at), x2: frame.x(at), y1: frame.top, y2: frame.bottom }));
  legend(view.legend, [[slot, "attack score"], ["original", "control flagged (FPR)"], ["retrained", "forget not flagged (FNR)"]]);
  view.numbers(() => [["Threshold", "Attack score", "FPR", "FNR"], points.filter((_, i) => i % 5 === 0)]);
}

function counts(slot, pair, r, best) {
  const score = attackScore(r.fpr, r.fnr), control = attack.control === "holdout" ? "holdout rows, same model" : `forget rows, ${label(attack.control)}`;
  const line = (name, n, all) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "num" }, String(n)), el("td", { class: "num" }, String(all - n)));
  return [el("h3", {}, el("span", { class: `tag-${slot}` }, slot.toUpperCase()), ` ${label(state[slot])}`),
    table("Rows flagged at this threshold", ["", { title: "Flagged", num: true }, { title: "Not flagged", num: true }],
      [line("forget rows", r.hit, pair.forget.length), line(control, r.wrong, pair.control.length)], { cls: "counts" }),
    el("p", {}, "Attack score ", el("b", { "data-score": slot }, fmt(score)), ` (0: nothing is told apart, 1: everything). Strongest threshold: `,
      el("b", { "data-strongest": slot }, fmt(best.score)), ` at ${fmt(best.at)}. `,
      el("button", { type: "button", "data-best": slot, onclick: () => go(best) }, `Go to ${slot.toUpperCase()}'s strongest`))];
}
let go = () => {};

function rowsFlagged(slot, pair, at) {
  const rows = flagged(pair.forget, at).sort((p, q) => (p[1] - q[1]) * (attack.above ? -1 : 1)), shown = rows.slice(0, 100);
  const body = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Flagged rows of ${slot.toUpperCase()}` });
  return el("details", { ontoggle: (event) => event.target.open && body.replaceChildren(table("Flagged forget rows", ["Row", { title: attack.statistic, num: true }],
    shown.map(([row, v]) => el("tr", {}, el("th", { scope: "row" }, rowName(row)), el("td", { class: "num" }, fmt(v)))))) },
  el("summary", {}, `Flagged forget rows of ${slot.toUpperCase()}: ${rows.length}${rows.length > shown.length ? `, the first ${shown.length}` : ""}`), body);
}

(function showMembership() {
  const host = $("membership");
  if (!STATISTICS.length) return host.append(missing("No audit has kept probabilities of forget rows.", "expunge audit RUN"));
  const references = MODELS.filter((m) => m.kind === "retrained" && STATISTICS.some((s) => MEMBER.values[s][m.key]));
  const controls = [...references.map((m) => [m.key, `the same rows in the ${m.label} model`]), ["holdout", "holdout rows in the same model"]];
  attack.control = controls[0][0];
  const slider = el("input", { type: "range", min: 0, max: MEMBER.steps - 1, step: 1, value: attack.step, id: "threshold", "aria-label": "Threshold",
    oninput: () => { Object.assign(attack, { step: Number(slider.value), exact: null }); render(); } });
  const shown = el("output", { for: "threshold", id: "threshold-shown" }), about = el("p", { class: "quiet" });
  const select = (name, options, key, parse = (v) => v) => {
    const node = el("select", { "data-attack": key, onchange: () => { Object.assign(attack, { [key]: parse(node.value), exact: null }); render(); } });
    menu(node, options, String(attack[key]));
    return el("label", {}, name, node);
  };
  const direction = select("A row is flagged", [["true", "at or above the threshold"], ["false", "at or below the threshold"]], "above", (v) => v === "true");
  const panels = ["a", "b"].map((slot) => ({ slot, head: el("div"), list: el("div"), bars: figure("How the rows lie"), lines: figure("Over all thresholds") }));
  for (const { bars, slot } of panels) legend(bars.legend, [[slot, "forget rows (upwards)"], ["", "control (downwards)"]]);
  host.append(el("div", { class: "controls" }, select("Number of a row", STATISTICS.map((s) => [s, s]), "statistic"), select("Told from", controls, "control"), direction,
    el("label", { class: "wide-control" }, el("span", {}, "Threshold ", shown), slider)), about,
  el("div", { class: "two" }, panels.map((p) => el("div", {}, el("div", { class: "card" }, p.head, p.list), p.bars.node, p.lines.node))));
  let all = [0, 1];
  go = (best, focus = true) => {
    attack.above = best.above;
    direction.querySelector("select").value = String(best.above);
    attack.step = Math.round(((best.at - all[0]) / (all[1] - all[0] || 1)) * (MEMBER.steps - 1));
    attack.exact = best.at; // which may lie between two steps of the slider
    slider.value = attack.step;
    render();
    if (focus) slider.focus();
  };
  function render() {
    const pairs = panels.map((p) => sides(state[p.slot])), known = pairs.filter(Boolean);
    about.textContent = `${attack.statistic}: ${MEMBER.about[attack.statistic]}. The strongest threshold is chosen on the rows it is tested on, and few rows make it look stronger: ` +
      "compare it with a second retrained model.";
    all = known.length ? range(known) : [0, 1];
    const at = attack.exact ?? thresholds(all)[attack.step];
    shown.textContent = fmt(at);
    const spoken = [];
    for (const [i, p] of panels.entries()) {
      const pair = pairs[i];
      for (const view of [p.bars, p.lines]) view.node.hidden = !pair;
      if (!pair) { p.head.replaceChildren(missing(`${label(state[p.slot])} and this control were not both asked.`)); p.list.replaceChildren(); continue; }
      const r = histogram(p.bars, p.slot, pair, at, all);
      curve(p.lines, p.slot, pair, at, all);
      p.bars.numbers(() => [["Side", "Rows", "Flagged"], [["forget", pair.forget.length, r.hit], ["control", pair.control.length, r.wrong]].map(([n, x, y]) => [n, String(x), String(y)])]);
      p.head.replaceChildren(...counts(p.slot, pair, r, strongest(pair)));
      p.list.replaceChildren(rowsFlagged(p.slot, pair, at));
      spoken.push(`${p.slot.toUpperCase()}: ${r.hit} of ${pair.forget.length} forget rows flagged`);
    }
    slider.setAttribute("aria-valuetext", `${fmt(at)}. ${spoken.join(". ")}`);
  }
  on("a b", () => { attack.exact = null; });
  on("a b size", render);
  on("a", () => { // begin where A is told best
    if (host.dataset.begun || !sides(state.a)) return;
    host.dataset.begun = "yes";
    go(strongest(sides(state.a)), false);
  });
})();
