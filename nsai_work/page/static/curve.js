// Draws the loss curve of a job with uPlot in the place of the server's drawing, and follows it live.
(() => {
  "use strict";
  const figure = document.getElementById("curve");
  const main = document.getElementById("main");
  const readout = document.getElementById("readout");
  if (!figure || !main || typeof uPlot === "undefined") return;

  const MAX_TAIL = 400;
  const MAX_SYMBOLS = 40;
  const HEIGHT = 320;
  let data = null;
  let plot = null;
  let tail = 0;
  let index = null;
  let reading = false;
  let again = false;
  const missed = [];

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const modes = { warm: "warn", exact: "ok", unverified: "s3", cold: "bad", restarted: "bad" };
  const format = new Intl.NumberFormat("en");

  // the server's range, enlarged by what came since; of a part that was zoomed into, what is in it
  const range = (u) => {
    const { min, max } = u.scales.x;
    const whole = !plot || !zoomed();
    let [low, high] = whole ? data.range : [Infinity, -Infinity];
    const from = whole ? data.steps.length - tail : 0;
    const see = (value) => { if (value < low) low = value; if (value > high) high = value; };
    for (let at = from; at < data.steps.length; at++) {
      if (whole || (data.steps[at] >= min && data.steps[at] <= max)) { see(data.low[at]); see(data.high[at]); }
    }
    if (low > high) return data.range;
    const margin = whole ? 0 : (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
    return [low - margin, high + margin];
  };
  const last = () => Math.max(1, data.total || 0, data.steps[data.steps.length - 1] || 0);
  // values that nothing was measured with have no ticks
  const known = (u, splits) => (data.steps.length || data.evaluations.steps.length ? splits : splits.map(() => null));
  const columns = () => [data.steps, data.high, data.low, data.loss];
  const lossAt = (step) => {
    let low = 0, high = data.steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.steps[middle] < step) low = middle + 1; else high = middle;
    }
    return data.loss[low] ?? 0;
  };

  const paint = (u) => {
    const ratio = uPlot.pxRatio;
    const context = u.ctx;
    const x = (value) => u.valToPos(value, "x", true);
    const y = (value) => u.valToPos(value, "y", true);
    const { left, top, width, height } = u.bbox;
    const font = (weight) => `${weight} ${11 * ratio}px system-ui, sans-serif`;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    for (const mark of data.recoveries) {
      context.fillStyle = color(modes[mark.mode] || "quiet");
      context.globalAlpha = 0.13;
      context.fillRect(x(mark.since), top, x(mark.step) - x(mark.since), height);
    }
    context.globalAlpha = 1;
    context.lineWidth = 2 * ratio;
    context.strokeStyle = color("ghost");
    context.setLineDash([4 * ratio, 3 * ratio]);
    for (const ghost of data.ghosts) {
      context.beginPath();
      ghost.steps.forEach((step, at) => context[at ? "lineTo" : "moveTo"](x(step), y(ghost.loss[at])));
      context.stroke();
    }
    context.lineWidth = ratio;
    context.setLineDash([2 * ratio, 3 * ratio]);
    context.font = font(400);
    const from = data.recoveries.length - 6;
    data.recoveries.forEach((mark, number) => {
      const at = Math.round(x(mark.step));
      context.strokeStyle = context.fillStyle = color(modes[mark.mode] || "quiet");
      context.beginPath();
      context.moveTo(at, top);
      context.lineTo(at, top + height);
      context.stroke();
      if (number < from) return;
      const ends = at > left + width * 0.66;
      context.textAlign = ends ? "right" : "left";
      context.fillText(u.width < 620 ? mark.mode : mark.text, at + (ends ? -6 : 6) * ratio, top + (12 + 15 * (number % 3)) * ratio);
    });
    context.setLineDash([]);
    const first = Math.max(...data.high.slice(0, 40));
    if (first > u.scales.y.max && u.scales.x.min <= 0) {
      context.fillStyle = color("quiet");
      context.textAlign = "left";
      context.fillText(`falls from ${+first.toPrecision(4)} at first`, left + 12 * ratio, top + 57 * ratio);
    }
    context.restore();
    const inside = (step) => step >= u.scales.x.min && step <= u.scales.x.max;
    context.save();
    context.beginPath();
    context.rect(left - 6 * ratio, top, width + 12 * ratio, height + 6 * ratio);
    context.clip();
    context.lineWidth = 1.5 * ratio;
    context.strokeStyle = color("accent");
    context.fillStyle = color("card");
    const saved = data.checkpoints.steps.filter(inside);
    for (const step of saved) {
      context.beginPath();
      if (saved.length > MAX_SYMBOLS) {
        context.lineWidth = ratio;
        context.moveTo(x(step), top + height);
        context.lineTo(x(step), top + height - 6 * ratio);
      } else {
        context.arc(x(step), y(lossAt(step)), 3.2 * ratio, 0, 7);
        context.fill();
      }
      context.stroke();
    }
    context.lineWidth = 1.5 * ratio;
    context.fillStyle = context.strokeStyle = color("ok");
    const asLine = data.evaluations.steps.length > MAX_SYMBOLS;
    if (asLine) { context.lineWidth = ratio; context.beginPath(); }
    data.evaluations.steps.forEach((step, at) => {
      if (asLine) { context.lineTo(x(step), y(data.evaluations.values[at])); return; }
      if (!inside(step)) return;
      const size = 4.5 * ratio, cx = x(step), cy = y(data.evaluations.values[at]);
      context.beginPath();
      context.moveTo(cx, cy - size);
      context.lineTo(cx + size, cy);
      context.lineTo(cx, cy + size);
      context.lineTo(cx - size, cy);
      context.fill();
    });
    if (asLine) context.stroke();
    const end = data.steps.length - 1;
    if (end < 0) {
      context.fillStyle = color("quiet");
      context.textAlign = "center";
      context.fillText("no step yet", left + width / 2, top + height / 2);
    }
    if (end >= 0 && inside(data.steps[end])) {
      const cx = x(data.steps[end]), cy = y(data.loss[end]);
      context.fillStyle = color("accent");
      context.beginPath();
      context.arc(cx, cy, 4 * ratio, 0, 7);
      context.fill();
      context.fillStyle = color("fg");
      context.font = font(600);
      const text = `${format.format(data.steps[end])} · ${data.loss[end].toFixed(4)}`;
      const right = cx + 9 * ratio + context.measureText(text).width > left + width;
      context.textAlign = right ? "right" : "left";
      // without room on the right: below the line, which falls, or over the point
      const below = right && cy + 20 * ratio < top + height;
      const at = below ? cx - 9 * ratio : right ? left + width : cx + 9 * ratio;
      context.fillText(text, at, cy + (below ? 18 : -9) * ratio);
    }
    context.restore();
  };

  const tell = (at) => {
    if (!readout) return;
    if (at == null || data.steps[at] == null) { readout.textContent = ""; return; }
    const spread = data.high[at] > data.low[at] ? ` (${data.low[at].toFixed(4)} to ${data.high[at].toFixed(4)})` : "";
    readout.textContent = `step ${format.format(data.steps[at])} · loss ${data.loss[at].toFixed(4)}${spread}`;
  };

  const options = () => ({
    width: Math.max(figure.clientWidth - 8, 200),
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: true, y: false }, points: { size: 7 } },
    scales: { x: { time: false, range: (u, low, high) => (low == null ? [0, last()] : [low, high]) }, y: { range } },
    axes: ["x", "y"].map((scale) => ({
      scale,
      stroke: () => color("quiet"),
      font: "11px system-ui, sans-serif",
      size: scale === "x" ? 28 : 52,
      space: scale === "x" ? 80 : 50,
      filter: scale === "x" ? undefined : known,
      grid: { show: scale === "y", filter: known, stroke: () => color("line"), width: 1 },
      ticks: { show: false },
      incrs: scale === "x" ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5] : undefined,
    })),
    series: [
      {},
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } },
      { stroke: () => color("accent"), width: 1.6, points: { show: data.steps.length === 1 } },
    ],
    bands: [{ series: [1, 2], fill: () => color("band") }],
    hooks: { draw: [paint], setCursor: [(u) => tell(u.cursor.idx ?? index)] },
  });

  const build = () => {
    const view = plot && zoomed() ? { min: plot.scales.x.min, max: plot.scales.x.max } : null;
    if (plot) plot.destroy();
    figure.replaceChildren();
    plot = new uPlot(options(), columns(), figure);
    plot.setScale("x", view || { min: 0, max: last() });
    // the point that the keyboard has chosen, which a new drawing would forget
    tell(index);
    describe();
  };
  const zoomed = () => plot.scales.x.min > 0 || plot.scales.x.max < extent;
  let extent = 1;
  const describe = () => {
    extent = last();
    const end = data.steps.length - 1;
    figure.dataset.step = end < 0 ? "0" : String(data.steps[end]);
    figure.dataset.recoveries = data.recoveries.map((mark) => mark.mode).join(" ");
  };

  const append = (news) => {
    const end = data.steps[data.steps.length - 1] || 0;
    news.steps.forEach((step, at) => {
      if (step <= end) return;
      data.steps.push(step);
      for (const name of ["loss", "low", "high"]) data[name].push(news.loss[at]);
      tail += 1;
    });
  };

  const read = async () => {
    if (reading) { again = true; return; }
    reading = true;
    try {
      const answer = await fetch(figure.dataset.source);
      if (answer.ok) {
        data = await answer.json();
        tail = 0;
        // steps that arrived meanwhile
        missed.splice(0).forEach(append);
        build();
      }
    } catch { /* the stream says that the server is away, and asks for a new drawing when it is back */ }
    reading = false;
    if (again) { again = false; read(); }
  };

  main.addEventListener("redraw", read);
  main.addEventListener("curve", (event) => {
    const news = JSON.parse(event.detail.data);
    if (!data || reading) { missed.push(news); return; }
    const follows = !zoomed();
    append(news);
    if (tail > MAX_TAIL && data.width > 1) { read(); return; }
    plot.setData(columns(), false);
    plot.setScale("x", follows ? { min: 0, max: last() } : { min: plot.scales.x.min, max: plot.scales.x.max });
    describe();
  });

  figure.tabIndex = 0;
  figure.setAttribute("role", "group");
  figure.setAttribute("aria-describedby", "readout");
  figure.addEventListener("keydown", (event) => {
    if (!plot || !data.steps.length) return;
    const end = data.steps.length - 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -end, End: end };
    if (!(event.key in moves)) return;
    event.preventDefault();
    index = Math.min(end, Math.max(0, (index ?? end) + moves[event.key]));
    plot.setCursor({ left: plot.valToPos(data.steps[index], "x"), top: plot.valToPos(data.loss[index], "y") });
    tell(index);
  });
  new ResizeObserver(() => {
    if (plot) plot.setSize({ width: Math.max(figure.clientWidth - 8, 200), height: HEIGHT });
  }).observe(figure);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && plot.redraw());
  read();
})();
