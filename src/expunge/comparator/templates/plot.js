// Small charts: axes, lines, points, a legend, and the same numbers as a table.

function ticks(low, high, count = 5) {
  const span = high - low || 1, rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return found;
}
function tickText(value) {
  const size = Math.abs(value);
  return (size && (size < 1e-3 || size >= 1e4) ? value.toExponential(0) : String(+value.toPrecision(3))).replace("-", "−");
}
function scale([a, b], [p, q]) {
  const at = (v) => p + ((v - a) / (b - a || 1)) * (q - p);
  at.back = (pixel) => a + ((pixel - p) / (q - p)) * (b - a);
  return at;
}
/** Least and greatest value with some room around them. */
function domain(values, room = 0.06) {
  const known = values.filter((v) => v !== null && v !== undefined);
  if (!known.length) return [0, 1];
  let low = Infinity, high = -Infinity;
  for (const v of known) { if (v < low) low = v; if (v > high) high = v; }
  const pad = (high - low || Math.abs(high) || 1) * room;
  return [low - pad, high + pad];
}

/** A figure with a heading, a place to draw in, a line below, and its numbers as a table that opens. */
function figure(title, caption = "") {
  const plot = el("div", { class: "plot" }), legend = el("ul", { class: "legend" }), note = el("figcaption", {}, caption);
  const body = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}: numbers` });
  let rows = () => [[], []];
  const details = el("details", { ontoggle: () => details.open && show() }, el("summary", {}, "Numbers as a table"), body);
  const head = el("h3", {}, title);
  function show() {
    const [columns, found] = rows();
    body.replaceChildren(table(head.textContent, columns, found.map((cells) => el("tr", {}, cells.map((c, i) => (
      i ? el("td", { class: "num" }, typeof c === "number" || c === null ? fmt(c) : String(c)) : el("th", { scope: "row" }, String(c))))))));
  }
  return { node: el("figure", { class: "card" }, head, plot, legend, note, details), plot, legend, note, head,
    numbers: (found) => { rows = found; if (details.open) show(); } };
}

/** Widths of places to draw in; asking for one after each change would lay out the whole page again. */
let widths = new WeakMap();
function widthOf(host) {
  if (!widths.has(host)) {
    if (!host.clientWidth) return 480;
    widths.set(host, host.clientWidth);
  }
  return widths.get(host);
}

/** Axes in a fresh drawing. `x` and `y`: {domain, title, ticks?, text?}. */
function axes(host, label, x, y, { height = 280, role = "img" } = {}) {
  const width = Math.max(240, widthOf(host)), left = 62, right = 12, top = 10, bottom = 44;
  const sx = scale(x.domain, [left, width - right]), sy = scale(y.domain, [height - bottom, top]);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role, "aria-label": label });
  for (const v of x.ticks || ticks(...x.domain, width < 420 ? 4 : 6)) {
    svg.append(draw("line", { class: "grid", x1: sx(v), x2: sx(v), y1: top, y2: height - bottom }),
      draw("text", { x: sx(v), y: height - bottom + 16, "text-anchor": "middle" }, (x.text || tickText)(v)));
  }
  for (const v of y.ticks || ticks(...y.domain, 5)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: sy(v), y2: sy(v) }),
      draw("text", { x: left - 7, y: sy(v) + 4, "text-anchor": "end" }, (y.text || tickText)(v)));
  }
  svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    draw("text", { class: "quiet-text", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, clip(x.title, width - left)),
    draw("text", { class: "quiet-text", x: 11, y: (top + height - bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 11 ${(top + height - bottom) / 2})` }, clip(y.title, height - bottom)));
  host.replaceChildren(svg);
  return { svg, x: sx, y: sy, left, right: width - right, top, bottom: height - bottom };
}
const clip = (title, pixels) => (title.length * 6 > pixels ? `${title.slice(0, Math.max(8, Math.floor(pixels / 6) - 1))}…` : title);

const SHAPES = {
  circle: (x, y) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`,
  cross: (x, y) => `M${(x - 3).toFixed(1)} ${(y - 3).toFixed(1)}l6 6m0 -6l-6 6`,
  diamond: (x, y) => `M${x.toFixed(1)} ${(y - 4).toFixed(1)}l4 4l-4 4l-4 -4z`,
};
/** Many points as one path, which is quick to draw. `points`: [[x, y], ...] in pixels. */
const dots = (points, shape, cls) => draw("path", { class: `dots ${cls}`, d: points.map(([x, y]) => SHAPES[shape](x, y)).join("") });

const path = (frame, points, cls) => draw("path", { class: `line ${cls}`, d: points.filter((p) => p[1] !== null)
  .map(([x, y], i) => `${i ? "L" : "M"}${frame.x(x).toFixed(1)} ${frame.y(y).toFixed(1)}`).join("") });

/** A key of [class, text, shape?]; without a shape it is a line. */
function legend(host, entries) {
  host.replaceChildren(...entries.map(([cls, name, shape]) => el("li", {}, draw("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" },
    shape ? dots([[11, 6]], shape, cls) : draw("path", { class: `line ${cls}`, d: "M0 6h22" })), name)));
}

/** Tell which row the pointer is near, and choose it on a click. `points`: [[row, x, y], ...] in pixels. */
function nearby(frame, points, note, idle) {
  const find = (event) => {
    const box = frame.svg.getBoundingClientRect(), k = frame.svg.viewBox.baseVal.width / box.width;
    const px = (event.clientX - box.left) * k, py = (event.clientY - box.top) * k;
    let best = null, least = 400;
    for (const [row, x, y] of points) {
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) { least = far; best = row; }
    }
    return best;
  };
  frame.svg.addEventListener("pointermove", (event) => {
    const row = find(event);
    note.textContent = row === null ? idle : `${DATA.rows.split[row]}: ${rowName(row)}`;
  });
  frame.svg.addEventListener("pointerleave", () => { note.textContent = idle; });
  frame.svg.addEventListener("click", (event) => { const row = find(event); if (row !== null) set({ row }); });
}
/** A ring around the row that is chosen. */
function ring(frame, points) {
  const found = points.find(([row]) => row === state.row);
  if (found) frame.svg.append(draw("circle", { class: "ring", cx: found[1], cy: found[2], r: 8 }));
}
