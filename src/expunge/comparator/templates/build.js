// Build: recipes and settings of the runs that are kept, side by side; what differs is marked.

/** Per setting, the value that most runs have where more than one has it; null where all differ. */
function usual(values) {
  const counts = new Map();
  for (const v of values) counts.set(v, (counts.get(v) || 0) + 1);
  const [value, count] = [...counts].sort((x, y) => y[1] - x[1])[0] || [null, 0];
  const rivals = [...counts.values()].filter((c) => c === count).length;
  return counts.size > 1 && (count < 2 || rivals > 1) ? null : value;
}

function showSettings() {
  const order = (r) => (r.key === state.a ? 0 : r.key === state.b ? 1 : 2);
  const runs = state.kept.map((key) => BY[key]).sort((p, q) => order(p) - order(q));
  if (!runs.length) return $("settings").replaceChildren(el("p", {}, "No run is kept."));
  // What every run has first, then the options of terms, then those of the command.
  const first = ["verdict", "recipe", "model", "task", "seed"], rank = (n) => (first.includes(n) ? 0 : n.includes(".") ? 1 : n === "folder" ? 3 : 2);
  const names = [...new Set(runs.flatMap((r) => Object.keys(r.settings)))].sort((p, q) => rank(p) - rank(q));
  const only = $("only-differing").checked, rows = [];
  for (const name of names) {
    const values = runs.map((r) => r.settings[name] ?? "–"), same = values.every((v) => v === values[0]);
    if (only && same && runs.length > 1) continue;
    const common = usual(values);
    rows.push(el("tr", {}, el("th", { scope: "row" }, name), values.map((v) => el("td", {}, same || v === common ? v
      : el("mark", {}, v, el("span", { class: "hidden" }, " (differs)"))))));
  }
  const heads = ["Setting", ...runs.map((r) => ({ title: el("span", {}, r.key === state.a ? el("span", { class: "tag-a" }, "A") : null,
    r.key === state.b ? el("span", { class: "tag-b" }, "B") : null, ` ${r.label}`) }))];
  $("settings").replaceChildren(table("Recipes and settings side by side", heads, rows, { cls: "settings" }));
}
$("only-differing").addEventListener("change", showSettings);
on("kept a b", showSettings);
