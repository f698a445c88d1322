// The live view: draws what LiveChart (chart.py) sends and knows nothing of runs. How `points` and `curves` are to be
// read is told there. The kernel sends numbers only; scales, ticks and colours are made here, anew for each frame.

const COLOURS = 6; // --cooptim-c0 … c5 in live.css
const SILENCE = 60; // seconds without an update after which a running view says so
const ANSWERED = 8; // seconds that an answer of the page stands
const PLOTTED = ["points", "curves", "title", "state", "x_label", "y_label", "x_end", "log_x", "log_y"]; // what a plot shows
const LEFTOVER = "the kernel that ran this is gone: run the cell again, or draw the run with %cooptim show";
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

// Elements are built one by one, never from strings of HTML: names come from the user's code.
function make(tag, className, parent, namespace = "http://www.w3.org/1999/xhtml") {
  const node = document.createElementNS(namespace, tag);
  if (className) node.setAttribute("class", className);
  parent?.append(node);
  return node;
}

function draw(tag, attributes, parent, text) {
  const node = make(tag, null, parent, "http://www.w3.org/2000/svg");
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const [GAP, STEPS] = [65535, 65534]; // of a number in 16 bits, see chart.py

/** A curve's rows as float32, one after another, from where they start in the buffer. */
function unpack(raw, at, { columns, count, span, log }) {
  const values = new Float32Array(count * columns);
  for (let i = 0; i < count; i++) {
    if (span) {
      const [x, y] = [raw.getUint16(at + 4 * i, true), raw.getUint16(at + 4 * i + 2, true)];
      const height = span[2] + (y / STEPS) * (span[3] - span[2]);
      values[2 * i] = span[0] + (x / STEPS) * (span[1] - span[0]);
      values[2 * i + 1] = y === GAP ? NaN : log ? 10 ** height : height;
    } else for (let k = 0; k < columns; k++) values[i * columns + k] = raw.getFloat32(at + 4 * (i * columns + k), true);
  }
  return values;
}

/** The curves as sent, each with its rows: [{name, kind, columns, count, values: Float32Array, colour}]. */
function decode(model) {
  const raw = model.get("points"); // a DataView that may start anywhere in a larger buffer
  const slots = new Map();
  let start = 0;
  return (model.get("curves") ?? []).map((curve) => {
    const own = unpack(raw, start, curve);
    start += 4 * curve.count * (curve.span ? 1 : curve.columns);
    if (curve.kind === "ideal" || curve.kind === "hollow") return { ...curve, values: own, colour: "var(--cooptim-muted)" };
    if (!slots.has(curve.name)) slots.set(curve.name, slots.size);
    return { ...curve, values: own, colour: `var(--cooptim-c${slots.get(curve.name) % COLOURS})` };
  });
}

function* rows({ values, columns, count }) {
  for (let i = 0; i < count; i++) yield values.subarray(i * columns, (i + 1) * columns);
}

function isOver(state) {
  return !["idle", "waiting", "running"].includes(state);
}

/** The last row with a point in it, or null. */
function last(curve) {
  return [...rows(curve)].findLast(([x, y]) => Number.isFinite(x + y)) ?? null;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e4) return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 }).format(value);
  if (size > 0 && size < 1e-3) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
}

/** Round numbers between lo and hi, about `target` of them, at least `least` apart: [{at, label}]. */
function linearTicks(lo, hi, target, least = 0) {
  const rough = (hi - lo) / target;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * ([1, 2, 5].find((m) => m * power >= rough * 0.999) ?? 10));
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(lo / step - 1e-9); i <= hi / step + 1e-9; i++) {
    const at = i * step;
    const plain = Math.abs(at) < 1e4 && (digits <= 4 || at === 0);
    found.push({ at, label: plain ? at.toFixed(at === 0 ? 0 : digits) : digits > 4 ? at.toExponential(1) : short(at) });
  }
  return found;
}

/** Ticks of a logarithmic axis: powers of ten, with 2 and 5 between where there are few. */
function logTicks(lo, hi) {
  const from = Math.floor(Math.log10(lo));
  const to = Math.ceil(Math.log10(hi));
  const stride = Math.max(1, Math.ceil((to - from) / 6));
  const digits = Math.log10(hi / lo) < 2.5 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = from; power <= to; power += stride) {
    for (const digit of digits) {
      const at = Number(`${digit}e${power}`);
      const raised = `10${[...String(power)].map((c) => SUPERSCRIPT[c] ?? "⁻").join("")}`;
      const label = Math.abs(power) <= 3 ? String(at) : digit === 1 ? raised : `${digit}·${raised}`;
      if (at >= lo && at <= hi) found.push({ at, label });
    }
  }
  return found.length > 1 ? found : linearTicks(lo, hi, 4); // less than a step of the above: as on a linear axis
}

/** What the axes span: {x: [lo, hi], y: [lo, hi], whole: all x are whole numbers, empty: nothing to draw}.
 *  `end`: where x will end, if that is known and above 0. */
function spans(curves, logarithmic, logX, end) {
  const x = [Infinity, -Infinity];
  const y = [Infinity, -Infinity];
  let whole = true;
  const widen = (span, value) => {
    span[0] = Math.min(span[0], value);
    span[1] = Math.max(span[1], value);
  };
  const fits = (value) => Number.isFinite(value) && (!logarithmic || value > 0);
  for (const curve of curves) {
    for (const row of rows(curve)) {
      if (!Number.isFinite(row[0]) || (logX && row[0] <= 0) || !fits(row[1])) continue;
      widen(x, row[0]);
      whole &&= Number.isInteger(row[0]);
      for (let i = 1; i < row.length; i++) if (fits(row[i])) widen(y, row[i]);
    }
  }
  if (x[0] > x[1]) return { x: logX ? [0.1, 1] : [0, 1], y: logarithmic ? [0.1, 1] : [0, 1], whole: true, empty: true };
  if (end > x[1]) x[1] = end;
  if (logX) {
    const room = x[0] === x[1] ? 2 : (x[1] / x[0]) ** 0.03;
    [x[0], x[1]] = [x[0] / room, x[1] * room];
  } else if (x[0] === x[1]) x[1] = x[0] + 1;
  if (!logX && curves.some(({ kind }) => kind === "marker")) {
    const room = 0.04 * (x[1] - x[0]);
    [x[0], x[1]] = [x[0] - room, x[1] + room];
  }
  if (logarithmic) {
    const room = y[0] === y[1] ? 2 : (y[1] / y[0]) ** 0.06;
    return { x, y: [y[0] / room, y[1] * room], whole, empty: false };
  }
  const room = y[0] === y[1] ? 0.1 * Math.abs(y[0]) || 0.5 : 0.06 * (y[1] - y[0]);
  const floor = y[0] >= 0 ? Math.max(0, y[0] - room) : y[0] - room; // what is never negative gets no negative axis
  return { x, y: [floor, y[1] + room], whole, empty: false };
}

/** A path through a curve's points. What is not finite (or, on a log axis, not positive) breaks it. */
function trace(curve, toX, toY) {
  const pieces = [[]];
  for (const row of rows(curve)) {
    const [x, y] = [toX(row[0]), toY(row[1])];
    if (Number.isFinite(x + y)) pieces.at(-1).push(`${x.toFixed(1)},${y.toFixed(1)}`);
    else if (pieces.at(-1).length) pieces.push([]);
  }
  const lone = (at) => `M${at}m-1,0a1,1 0 1 0 2,0a1,1 0 1 0 -2,0`; // a point between two gaps is a small dot
  return pieces.map((piece) => (piece.length === 1 ? lone(piece[0]) : piece.length ? `M${piece.join("L")}` : "")).join("");
}

/** Whether two of these curves have a point at one x. */
function meets(curves) {
  const all = curves.flatMap((curve) => [...new Set([...rows(curve)].map(([x]) => x))]);
  return new Set(all).size < all.length;
}

function drawMarkers(curve, toX, toY, svg) {
  const style = `stroke:${curve.colour}`;
  draw("path", { d: trace(curve, toX, toY), class: "between", style }, svg);
  for (const [x, y, lo, hi] of rows(curve)) {
    const [cx, cy, low, high] = [toX(x), toY(y), toY(lo), toY(hi)];
    if (!Number.isFinite(cx + cy)) continue;
    const spread = Number.isFinite(low + high);
    const bar = `M${cx},${low}V${high}M${cx - 4},${low}h8M${cx - 4},${high}h8`;
    if (spread) draw("path", { d: bar, class: "spread", style }, svg);
    const dot = draw("circle", { cx, cy, r: 4.5, style: `fill:${curve.colour}` }, svg);
    draw("title", {}, dot, `${curve.label ?? curve.name}: ${short(y)} at ${+x.toPrecision(6)}${spread ? ` (${short(lo)} to ${short(hi)})` : ""}`);
  }
}

/** What the dots beneath are in doubt of: rings over them, that say it. */
function drawRings(curve, toX, toY, svg) {
  for (const [x, y] of rows(curve)) {
    const [cx, cy] = [toX(x), toY(y)];
    if (!Number.isFinite(cx + cy)) continue;
    const ring = draw("circle", { cx, cy, r: 4, class: "hollow", style: `stroke:${curve.colour}` }, svg);
    draw("title", {}, ring, `${short(y)} at ${+x.toPrecision(6)}, in doubt: ${curve.why ?? ""}`);
  }
}

function drawPlot(svg, model, curves, width) {
  const height = Math.round(Math.min(330, Math.max(220, width * 0.46)));
  const logarithmic = model.get("log_y");
  const logX = model.get("log_x");
  const { x, y, whole, empty } = spans(curves, logarithmic, logX, isOver(model.get("state")) ? 0 : model.get("x_end"));
  const yTicks = empty ? [] : logarithmic ? logTicks(...y) : linearTicks(...y, height / 55);
  const xTicks = empty ? [] : logX ? logTicks(...x) : linearTicks(...x, Math.min(8, width / 70), whole ? 1 : 0);
  const [xLabel, yLabel] = [model.get("x_label"), model.get("y_label")];
  const left = 14 + 6.5 * Math.max(3, ...yTicks.map(({ label }) => label.length));
  const [right, top, bottom] = [width - 14, yLabel ? 24 : 8, height - (xLabel ? 40 : 22)];
  const bend = logarithmic ? Math.log10 : (value) => value;
  const bendX = logX ? Math.log10 : (value) => value;
  const toX = (value) => left + ((bendX(value) - bendX(x[0])) / (bendX(x[1]) - bendX(x[0]))) * (right - left);
  const toY = (value) => bottom - ((bend(value) - bend(y[0])) / (bend(y[1]) - bend(y[0]))) * (bottom - top);

  svg.replaceChildren();
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  for (const { at, label } of yTicks) {
    draw("line", { class: "grid", x1: left, x2: right, y1: toY(at), y2: toY(at) }, svg);
    draw("text", { x: left - 8, y: toY(at) + 4, "text-anchor": "end" }, svg, label);
  }
  for (const { at, label } of xTicks) {
    draw("line", { class: "axis", x1: toX(at), x2: toX(at), y1: bottom, y2: bottom + 4 }, svg);
    draw("text", { x: toX(at), y: bottom + 17, "text-anchor": "middle" }, svg, label);
  }
  draw("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }, svg);
  const below = { class: "label", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" };
  if (xLabel) draw("text", below, svg, logX ? `${xLabel} (log scale)` : xLabel);
  if (yLabel) draw("text", { class: "label", x: 2, y: 12 }, svg, logarithmic ? `${yLabel} (log scale)` : yLabel);
  const middle = { x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" };
  if (empty && !isOver(model.get("state"))) draw("text", middle, svg, "waiting for the first point");

  const order = ["ideal", "faint", "line", "marker", "hollow"]; // what matters most is drawn last, on top
  const measured = curves.filter(({ kind }) => kind === "marker");
  const many = curves.filter(({ kind }) => kind === "faint").length;
  svg.style.setProperty("--cooptim-faint", Math.min(0.4, Math.max(0.12, 2 / many))); // or many would make a solid band
  for (const curve of [...curves].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))) {
    // Pixels: bars at one x stay apart, where x is a number of workers; where no two share one, they stay at it.
    const aside = logX || !meets(measured) ? 0 : 7 * (measured.indexOf(curve) - (measured.length - 1) / 2);
    if (curve.kind === "marker") drawMarkers(curve, (value) => toX(value) + aside, toY, svg);
    else if (curve.kind === "hollow") drawRings(curve, toX, toY, svg);
    else draw("path", { d: trace(curve, toX, toY), class: curve.kind, style: `stroke:${curve.colour}` }, svg);
    const end = curve.kind === "line" && model.get("state") === "running" && last(curve);
    const said = curve.label && last(curve);
    if (said) draw("text", { x: toX(said[0]) + 8, y: toY(said[1]) + 4 }, svg, curve.label);
    const tip = end && { cx: toX(end[0]), cy: toY(end[1]), r: 4, style: `fill:${curve.colour}` };
    if (tip && Number.isFinite(tip.cy)) draw("circle", tip, svg);
  }
}

/** Is the kernel that feeds this view still there? true, false, or null where this front end does not tell.
 *
 *  A restart, by the user or after a crash, is told by ipywidgets (`comm_live`). Of a kernel shut down or exchanged it
 *  says nothing: the kernel connection then merely has no such comm. anywidget hides this model's own comm, so its
 *  layout's is asked: made and lost together with ours.
 */
function kernelLives(model) {
  try {
    const layout = model.get("layout");
    if (layout?.comm_live === false) return false;
    const kernel = model.widget_manager?.kernel;
    if (kernel === null || kernel?.isDisposed) return false;
    return kernel?.hasComm?.(layout.model_id) ?? null;
  } catch {
    return null; // the notebook is being closed, or the layout is not there yet
  }
}

/** Put a line into a new cell below the one that shows `el`; false where this front end has no such notebook. */
function insertBelow(model, el, line) {
  try {
    const notebook = model.widget_manager.context.model.sharedModel;
    const all = [...el.closest(".jp-Notebook").querySelectorAll(".jp-Cell")];
    const place = all.indexOf(el.closest(".jp-Cell"));
    if (place < 0) return false;
    notebook.insertCell(place + 1, { cell_type: "code", source: line, metadata: {}, outputs: [], execution_count: null });
    return true;
  } catch {
    return false; // another front end, or a notebook that is being closed
  }
}

function render({ model, el }) {
  const root = make("div", "cooptim-live", el);
  const head = make("div", "cooptim-live__head", root);
  const title = make("div", "cooptim-live__title", head);
  const legend = make("div", "cooptim-live__legend", head);
  const svg = draw("svg", { class: "cooptim-live__plot", role: "img" }, root);
  const progress = make("div", "cooptim-live__progress", root);
  const bar = make("div", null, progress);
  const line = make("div", "cooptim-live__status", root);
  const word = make("span", "cooptim-live__state", line);
  const text = make("span", null, line);
  const notice = make("span", "cooptim-live__notice", line);
  const showMachine = strip(root); // strip.js, put in front of this file
  const table = make("table", null, make("div", "cooptim-live__scroll", root));
  progress.setAttribute("role", "progressbar");
  progress.setAttribute("aria-label", "progress");
  word.setAttribute("role", "status"); // read aloud when it changes; the numbers beside it would never stop
  notice.setAttribute("role", "status");

  const hidden = new Set(); // names switched off in the legend
  let gone = false;
  let heard = Date.now();
  let frame = 0;
  let isStale = true; // the plot
  let answer = ""; // to what was asked of the page
  const drawn = {}; // what legend and table were built from: they are rebuilt only when that changes

  function setText(node, value) {
    if (node.textContent !== value) node.textContent = value; // an unchanged text is not read aloud again
  }

  function drawLegend(curves) {
    const entries = [...new Map(curves.map((curve) => [curve.name, curve])).values()].filter(({ name }) => name);
    const key = JSON.stringify(entries.map(({ name, kind }) => [name, kind]));
    if (key !== drawn.legend) {
      // Built anew at each frame, a button would be gone between press and release.
      drawn.legend = key;
      legend.replaceChildren();
      for (const { name, kind, colour } of entries) {
        const button = make("button", null, legend);
        button.type = "button";
        const swatch = draw("svg", { width: 18, height: 10, "aria-hidden": "true" }, button);
        if (kind === "marker" || kind === "hollow") draw("circle", { cx: 9, cy: 5, r: 4.5, class: kind, style: kind === "hollow" ? `stroke:${colour}` : `fill:${colour}` }, swatch);
        else draw("path", { d: "M1,5H17", class: kind, style: `stroke:${colour}` }, swatch);
        make("span", null, button).textContent = name;
        make("span", "cooptim-live__value", button);
        button.addEventListener("click", () => {
          if (!hidden.delete(name)) hidden.add(name);
          outdate();
        });
      }
    }
    entries.forEach((curve, i) => {
      const end = curve.kind === "line" && last(curve);
      legend.children[i].setAttribute("aria-pressed", !hidden.has(curve.name));
      setText(legend.children[i].lastChild, end ? short(end[1]) : "");
    });
  }

  function drawTable() {
    const [header, ...body] = model.get("table") ?? [];
    const key = JSON.stringify([header, body]);
    if (key === drawn.table) return;
    drawn.table = key;
    table.replaceChildren();
    table.hidden = !header;
    if (!header) return;
    const top = make("tr", null, make("thead", null, table));
    for (const name of header) Object.assign(make("th", null, top), { scope: "col", textContent: name });
    const rest = make("tbody", null, table);
    for (const cells of body) {
      const row = make("tr", null, rest);
      for (const cell of cells) make("td", null, row).textContent = cell;
    }
  }

  function drawStatus() {
    const state = model.get("state");
    const fraction = model.get("fraction");
    const left = gone && !isOver(state); // nothing is running any more, whatever was said last
    const silent = Math.floor((Date.now() - heard) / 1000);
    progress.hidden = fraction === null && (state !== "running" || gone);
    if (fraction === null) progress.removeAttribute("aria-valuenow");
    else progress.setAttribute("aria-valuenow", Math.round(100 * Math.min(1, Math.max(0, fraction))));
    bar.style.width = fraction === null ? "" : `${progress.getAttribute("aria-valuenow")}%`;
    root.style.setProperty("--cooptim-state", left ? "var(--cooptim-muted)" : `var(--cooptim-${state})`);
    word.hidden = left || state === "idle";
    setText(word, state);
    setText(text, model.get("status"));
    if (gone) setText(notice, LEFTOVER);
    else if (state === "running" && silent >= SILENCE) {
      const since = silent < 120 ? `${silent} s` : `${Math.floor(silent / 60)} min`;
      setText(notice, `no update for ${since}; if the kernel is gone, run the cell again, or %cooptim show`);
    } else setText(notice, answer);
    root.dataset.cooptimState = state;
    root.dataset.cooptimKernel = gone ? "gone" : "there";
  }

  function redraw() {
    frame = 0;
    if (isStale) redrawPlot();
    // Arrows and letters in the panel are the panel's, not commands of the notebook around it.
    el.closest(".cooptim-panel")?.setAttribute("data-lm-suppress-shortcuts", "true");
    drawTable();
    drawStatus();
    showMachine(gone ? null : model.get("machine"));
  }

  function redrawPlot() {
    isStale = false;
    const all = decode(model);
    const curves = all.filter(({ name }) => !hidden.has(name));
    setText(title, model.get("title"));
    drawLegend(all);
    const width = root.clientWidth - 16; // its padding
    drawPlot(svg, model, curves, width > 0 ? width : 640); // not attached yet: the observer below will call again
    const ends = curves.filter(({ kind }) => kind !== "faint").map((curve) => [curve.name, last(curve)]);
    const said = ends.filter(([, end]) => end).map(([name, end]) => `${name}: ${short(end[1])} at ${+end[0].toPrecision(6)}`);
    const axes = `${model.get("y_label") || "y"} against ${model.get("x_label") || "x"}`;
    svg.setAttribute("aria-label", [model.get("title"), axes, ...said].filter(Boolean).join("; "));
    root.dataset.cooptimPoints = all.reduce((sum, { count }) => sum + count, 0);
    root.dataset.cooptimCurves = all.length;
  }

  /** The plot is to be drawn anew. It takes most of a page's time, which on a small machine is the ranks': the clock and
   *  the hardware move without it. */
  function outdate() {
    isStale = true;
    schedule();
  }

  function schedule() {
    frame ||= requestAnimationFrame(redraw); // many updates between two frames are one drawing
  }

  function update() {
    heard = Date.now();
    schedule();
  }

  function watch() {
    gone = kernelLives(model) === false;
    drawStatus();
    if (gone) showMachine(null);
  }

  async function take({ insert }) {
    if (!insert) return;
    if (insertBelow(model, el, insert)) answer = "it stands in a new cell below";
    else {
      const copied = await navigator.clipboard?.writeText(insert).then(() => true, () => false);
      answer = copied ? `copied: ${insert}` : `write into a cell: ${insert}`;
    }
    drawStatus();
    setTimeout(() => (answer = ""), 1000 * ANSWERED);
  }

  const observer = new ResizeObserver(outdate);
  observer.observe(root);
  for (const name of PLOTTED) model.on(`change:${name}`, outdate);
  model.on("change", update);
  model.on("comm_live_update", watch);
  model.on("msg:custom", take);
  const timer = setInterval(watch, 1000);
  redraw();
  watch();
  return () => {
    clearInterval(timer);
    cancelAnimationFrame(frame);
    observer.disconnect();
    for (const name of PLOTTED) model.off(`change:${name}`, outdate);
    model.off("change", update);
    model.off("comm_live_update", watch);
    model.off("msg:custom", take);
  };
}

export default { render };
