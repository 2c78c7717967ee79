// Start: the choices at first, what follows from a filter, a change of size, and a page that a server keeps up to date.

(function start() {
  const kept = () => [...state.kept.map((key) => BY[key]), ...MODELS.filter((m) => m.kind !== "run")];
  const PLACE = `expunge ${location.pathname}`;
  function showSlots() {
    for (const slot of ["a", "b"]) menu($(slot), kept().map((m) => [m.key, m.label]), state[slot]);
  }
  for (const slot of ["a", "b"]) $(slot).addEventListener("change", (event) => set({ [slot]: event.target.value }));
  $("swap").addEventListener("click", () => set({ a: state.b, b: state.a }));
  on("a b kept", showSlots);

  let remembered = {};
  try { remembered = JSON.parse(sessionStorage.getItem(PLACE)) || {}; } catch { /* a page from a file may have no storage */ }
  const known = (key, otherwise) => (BY[key] ? key : otherwise);
  const first = MODELS[0].key, second = (RUNS[1] || MODELS.find((m) => m.key === "retrained") || MODELS[MODELS.length - 1]).key;
  const splits = [...new Set(DATA.rows.split)], names = DATA.measures.map((m) => m.name);
  if (Object.keys(DATA.answers).length && !DATA.redacted) names.push(SAID);
  const split = splits.includes(remembered.split) ? remembered.split : splits.includes("forget") ? "forget" : "";
  const measure = names.includes(remembered.measure) ? remembered.measure : names[0] || "";
  menu($("split"), [["", "all"], ...splits.map((s) => [s, s])], split);
  menu($("measure"), names.map((n) => [n, n === SAID ? "how much the answers differ" : n]), measure);
  showLimits();
  set({ a: known(remembered.a, first), b: known(remembered.b, second), split, measure, kept: state.kept });
  window.addEventListener("pagehide", () => {
    try { sessionStorage.setItem(PLACE, JSON.stringify({ a: state.a, b: state.b, split: state.split, measure: state.measure })); } catch { /* as above */ }
  });
  let wait = 0;
  window.addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(() => { widths = new WeakMap(); set({ size: innerWidth }); }, 150); });

  const live = document.currentScript.dataset.live;
  if (!live) return;
  $("reload").addEventListener("click", () => location.reload());
  setInterval(async () => {
    try {
      const now = await (await fetch("/state", { cache: "no-store" })).text();
      $("stale").hidden = now === live;
    } catch { /* the server was stopped: the page stays as it is */ }
  }, 1000);
})();
