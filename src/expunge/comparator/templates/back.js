// Relearning: curves of all runs that are kept; and the rows that an attack brings back.

const BACK = DATA.back;

(function showCurves() {
  const host = $("relearning"), scores = Object.keys(BACK.curves);
  if (!scores.length) return host.append(missing("No audit has relearned a model.", "expunge audit RUN --suite \"relearn(at=[5, 15])\""));
  const view = figure("Scores while relearning");
  let score = scores[0], attack = Object.keys(BACK.curves[score])[0];
  const first = el("select", { id: "curve-score", onchange: () => { score = first.value; pick(); } }), second = el("select", { id: "curve-attack", onchange: () => { attack = second.value; render(); } });
  menu(first, scores.map((s) => [s, s]), score);
  function pick() {
    const names = Object.keys(BACK.curves[score]);
    attack = names.includes(attack) ? attack : names[0];
    menu(second, names.map((n) => [n, n]), attack);
    render();
  }
  host.append(el("div", { class: "controls" }, el("label", {}, "Score", first), el("label", {}, "Attack", second)), view.node);
  function render() {
    const lines = BACK.curves[score][attack], order = { "": 0, original: 1, retrained: 2, b: 3, a: 4 };
    const keys = Object.keys(lines).filter((key) => BY[key].kind !== "run" || state.kept.includes(key)).sort((p, q) => order[place(p)] - order[place(q)]);
    const points = keys.flatMap((key) => lines[key]), before = BACK.original[score];
    if (!points.length) { view.plot.replaceChildren(missing("None of the runs that are kept was relearned.")); return; }
    const frame = axes(view.plot, `${score} over steps of ${attack} for ${keys.length} models`, { domain: domain(points.map((p) => p[0]), 0.02), title: "steps of relearning" },
      { domain: domain([...points.map((p) => p[1]), before]), title: score }, { height: 300 });
    if (before !== null && before !== undefined) frame.svg.append(path(frame, [[points.reduce((m, p) => Math.min(m, p[0]), 0), before], [points.reduce((m, p) => Math.max(m, p[0]), 0), before]], "original"));
    for (const key of keys) {
      const line = path(frame, lines[key], place(key));
      line.dataset.key = key;
      frame.svg.append(fill(line, {}, [draw("title", {}, label(key))]));
      if (key === state.a || key === state.b) {
        for (const [x, y, low, high] of lines[key]) {
          if (low !== null) frame.svg.append(draw("line", { class: `line ${place(key)}`, style: "stroke-dasharray:none;stroke-width:1.2", x1: frame.x(x), x2: frame.x(x), y1: frame.y(low), y2: frame.y(high) }));
          frame.svg.append(draw("circle", { class: `fill-${place(key)}`, cx: frame.x(x), cy: frame.y(y), r: 4 }));
        }
      }
    }
    const named = keys.filter((key) => place(key));
    legend(view.legend, [...named.reverse().map((key) => [place(key), `${["a", "b"].includes(place(key)) ? `${place(key).toUpperCase()}, ` : ""}${label(key)}`]),
      ...(before !== null && before !== undefined ? [["original", "original, left alone"]] : []), ...(keys.length > named.length ? [["", "other runs that are kept"]] : [])]);
    view.note.textContent = "What comes back sooner than in the retrained model was still there. Bars are 95 % intervals.";
    view.numbers(() => [["Model", "Steps", score], keys.flatMap((key) => lines[key].map((p) => [label(key), String(p[0]), p[1]]))]);
  }
  pick();
  on("a b kept size", render);
})();

/** A row comes back where an attack brings it at least half of the way to the original, and above the control. */
function comesBack(before, under, control, original) {
  if ([before, under, original].includes(null) || original - before <= 0.05) return false;
  return under - before >= (original - before) / 2 && (control === null || under > control);
}

(function showBack() {
  const host = $("back"), measures = Object.keys(BACK.values);
  if (!measures.length) return host.append(missing("No audit has scores of single rows under attack.", "expunge audit RUN --suite \"relearn\""));
  const choice = { measure: measures[0], attack: "", shown: 50 }, opened = new Set();
  const body = el("div", { class: "card scroll", tabindex: 0, role: "region", "aria-label": "Rows that come back" }), said = el("p", { role: "status", id: "back-summary" });
  const measure = el("select", { id: "back-measure", onchange: () => { choice.measure = measure.value; labels(); } });
  const attack = el("select", { id: "back-attack", onchange: () => { choice.attack = attack.value; choice.shown = 50; render(); } });
  const more = el("button", { type: "button", onclick: () => { choice.shown += 50; render(); } }, "Show more rows");
  menu(measure, measures.map((m) => [m, m]), choice.measure);
  function labels() {
    const all = Object.keys(BACK.values[choice.measure]), relearned = all.filter((l) => l.startsWith("relearn"));
    if (!all.includes(choice.attack)) choice.attack = relearned[relearned.length - 1] || all[0];
    menu(attack, all.map((l) => [l, l]), choice.attack);
    render();
  }
  const under = (key) => new Map((BACK.values[choice.measure][choice.attack] || {})[key] || []);
  const alone = (key, row) => ((DATA.values[choice.measure] || {})[key] || [])[row] ?? null;
  function render() {
    const slots = ["a", "b"].map((s) => ({ key: state[s], slot: s, got: under(state[s]) })), control = under("retrained");
    const rows = [...new Set(slots.flatMap((s) => [...s.got.keys()]))].map((row) => {
      const original = alone("original", row), beside = control.get(row) ?? null;
      const sides = slots.map(({ key, got }) => {
        const before = alone(key, row), value = got.get(row) ?? null;
        return { before, value, gain: before === null || value === null ? null : value - before, back: comesBack(before, value, beside, original) };
      });
      return { row, original, beside, sides };
    });
    const strength = ({ sides }) => Math.max(...sides.map((s) => (s.gain === null ? -9 : s.gain + 2 * s.back)));
    rows.sort((p, q) => strength(q) - strength(p) || p.row - q.row);
    said.textContent = rows.length ? `${slots.map((s, i) => (s.got.size ? `${s.slot.toUpperCase()}: ${rows.filter((r) => r.sides[i].back).length} of ${s.got.size} rows come back` : `${s.slot.toUpperCase()}: not attacked`)).join(". ")}. ` +
      "A row comes back where the attack brings it half of the way to the original or more, and above the retrained model under the same attack. An attack that trains asks only rows that it did not train on." : "Neither A nor B was attacked in this way.";
    const cell = (s, original) => el("td", { class: "num" }, s.value === null ? "–" : `${fmt(s.before)} → ${fmt(s.value)}`, s.back ? el("span", { class: "spread back-yes" }, "comes back")
      : s.value !== null && original !== null && original - s.before <= 0.05 ? el("span", { class: "spread" }, "was never gone") : null);
    const spoken = slots.map((s) => new Map(((BACK.answers[choice.attack] || {})[s.key]) || []));
    const lines = rows.slice(0, choice.shown).flatMap((r) => {
      const told = spoken.some((m) => m.has(r.row)), isOpen = opened.has(r.row);
      const name = told ? el("button", { type: "button", "aria-expanded": String(isOpen), "data-row": r.row, onclick: () => {
        isOpen ? opened.delete(r.row) : opened.add(r.row);
        render();
        body.querySelector(`button[data-row="${r.row}"]`).focus();
      } }, rowName(r.row)) : rowName(r.row);
      const line = el("tr", {}, el("th", { scope: "row" }, name), r.sides.map((s) => cell(s, r.original)), el("td", { class: "num" }, fmt(r.beside)), el("td", { class: "num" }, fmt(r.original)));
      if (!isOpen || !told) return [line];
      const answers = slots.map((s, i) => el("div", { class: `slot-${s.slot}` }, el("h4", {}, `${s.slot.toUpperCase()} before`), el("p", {}, marked(answer(s.key, r.row), r.row)),
        el("h4", {}, `${s.slot.toUpperCase()} under the attack`), el("p", {}, marked(text(spoken[i].get(r.row)), r.row))));
      return [line, el("tr", { class: "open" }, el("td", { colspan: 5 }, el("p", {}, `Reference: ${DATA.rows.reference[r.row]}`), el("div", { class: "models" }, answers)))];
    });
    body.replaceChildren(rows.length ? table("Rows under the attack", ["Row", { title: "A: before → under attack", num: true }, { title: "B: before → under attack", num: true },
      { title: "Retrained under attack", num: true }, { title: "Original", num: true }], lines, { cls: "rows" }) : missing("There are no rows."));
    more.hidden = rows.length <= choice.shown;
  }
  host.append(el("div", { class: "controls" }, el("label", {}, "Attack", attack), el("label", {}, "Measured by", measure)), said, body, more);
  labels();
  on("a b", render);
})();
