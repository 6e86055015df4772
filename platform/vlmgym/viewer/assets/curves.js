// Decides how learning curves are drawn: panels of a run's main metrics, then every other metric, found by its name.

const CHART = { width: 380, height: 210, left: 46, right: 12, top: 12, bottom: 26 };
const STAGE_AXES = { cold_start: "cold start, updates", grpo: "GRPO, iterations" };
const NUM_COLORS = 9;

function drawCurves(onIteration) {
  const view = document.getElementById("view-curves");
  const shown = new Set(index.sections.flatMap(({ panels }) =>
    panels.flatMap(({ stage, curves }) => curves.map(([name]) => `${stage}/${name}`))));
  drawScores(view);
  for (const { title, panels } of index.sections) {
    view.append(make("section", {}, make("h2", {}, title), make("div", { class: "charts" },
      ...panels.map((panel) => chart(panel.title, panel.stage, panel.curves, panel.is_share, onIteration)))));
  }
  const others = Object.entries(index.metrics).flatMap(([stage, metrics]) =>
    Object.keys(metrics).map((name) => [stage, name]).filter(([, name]) => !shown.has(`${stage}/${name}`)));
  if (others.length) view.append(otherMetrics(others, onIteration));
  if (!view.children.length) view.append(make("p", { class: "empty" }, "No metrics were recorded."));
}

function otherMetrics(others, onIteration) {
  const grid = make("div", { class: "charts" });
  const search = make("input", { type: "search", id: "metric-search", placeholder: "Find a metric", "aria-label": "Find a metric" });
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    const found = others.filter(([stage, name]) => words.every((word) => `${stage}/${name}`.toLowerCase().includes(word)));
    grid.replaceChildren(...found.slice(0, 24).map(([stage, name]) => chart(name, stage, [[name, ""]], false, onIteration)));
    if (found.length > 24) grid.append(make("p", {}, `${found.length - 24} more: type a part of a name.`));
  };
  search.addEventListener("input", draw);
  draw();
  return make("section", {}, make("h2", {}, `All other metrics (${others.length})`), search, grid);
}

// curves: [metric, label]. A click calls onIteration(stage, step) with the nearest step.
function chart(title, stage, curves, isShare, onIteration) {
  const series = curves.map(([name, label], number) => {
    const [steps, values] = index.metrics[stage][name];
    return { label, steps, values, color: number % NUM_COLORS, dots: name.startsWith("evaluation/") || steps.length < 3 };
  });
  const scale = scales(series, isShare);
  const svg = make("svg", {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img",
    "aria-label": `${title}: ${series.map((each) => `${each.label || title} ${short(each.values.at(-1))} at the end`).join(", ")}`,
  });
  drawAxes(svg, scale, isShare, STAGE_AXES[stage] ?? stage);
  series.forEach((each) => svg.append(drawSeries(each, scale)));
  const legend = make("div", { class: "legend" }, ...series.filter((each) => each.label).map((each) =>
    make("span", { class: `color-${each.color}` }, make("i"), each.label)));
  const readout = make("output", { class: "readout" });
  addReadout(svg, readout, series, scale, isShare, (step) => onIteration(stage, step));
  return make("figure", { class: "chart" }, make("figcaption", {}, make("b", {}, title), readout), svg, legend);
}

function scales(series, isShare) {
  const steps = series.flatMap((each) => each.steps);
  const values = series.flatMap((each) => each.values);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (isShare) [low, high] = [0, high > 0.4 ? 1 : high];
  if (low === high) [low, high] = isShare ? [0, 1] : [low - 0.5, high + 0.5];
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const inner = { width: CHART.width - CHART.left - CHART.right, height: CHART.height - CHART.top - CHART.bottom };
  return {
    low, high, first, last,
    x: (step) => CHART.left + (last === first ? 0.5 : (step - first) / (last - first)) * inner.width,
    y: (value) => CHART.top + (1 - (value - low) / (high - low)) * inner.height,
  };
}

function drawAxes(svg, scale, isShare, label) {
  for (const value of ticks(scale.low, scale.high)) {
    const y = scale.y(value);
    svg.append(make("line", { x1: CHART.left, x2: CHART.width - CHART.right, y1: y, y2: y, class: "grid" }),
      make("text", { x: CHART.left - 6, y: y + 3.5, class: "tick end" }, isShare ? `${short(value * 100)}%` : short(value)));
  }
  const y = CHART.height - 8;
  svg.append(make("text", { x: CHART.left, y, class: "tick" }, String(scale.first)),
    make("text", { x: CHART.width / 2, y, class: "tick middle" }, label),
    make("text", { x: CHART.width - CHART.right, y, class: "tick end" }, String(scale.last)));
}

function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
  const values = [];
  for (let value = Math.ceil(low / size - 1e-9) * size; value <= high + size * 1e-6; value += size) values.push(value);
  return values;
}

function drawSeries({ steps, values, color, dots }, scale) {
  const points = steps.map((step, number) => [scale.x(step), scale.y(values[number])]);
  const group = make("g", { class: `series color-${color}` },
    make("polyline", { points: points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join(" ") }));
  if (dots) points.forEach(([cx, cy]) => group.append(make("circle", { cx, cy, r: 3 })));
  return group;
}

function addReadout(svg, readout, series, scale, isShare, onClick) {
  const rule = make("line", { y1: CHART.top, y2: CHART.height - CHART.bottom, class: "rule" });
  const stepAt = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * CHART.width;
    const steps = series.flatMap((each) => each.steps);
    return steps.reduce((best, step) => (Math.abs(scale.x(step) - x) < Math.abs(scale.x(best) - x) ? step : best));
  };
  svg.addEventListener("pointermove", (event) => {
    const step = stepAt(event);
    rule.setAttribute("x1", scale.x(step));
    rule.setAttribute("x2", scale.x(step));
    svg.append(rule);
    const shown = series.filter((each) => each.steps.includes(step)).map((each) => {
      const value = each.values[each.steps.indexOf(step)];
      return `${each.label} ${isShare ? `${(100 * value).toFixed(1)}%` : short(value)}`;
    });
    readout.textContent = `${step}: ${shown.join(" · ")}`;
  });
  svg.addEventListener("pointerleave", () => { rule.remove(); readout.textContent = ""; });
  svg.addEventListener("click", (event) => onClick(stepAt(event)));
}

function drawScores(view) {
  const scores = Object.entries(index.scores);
  if (!scores.length) return;
  const columns = [["score", "score"], ["won", "won"], ["illegal", "illegal answers"], ["well_formed", "format"],
    ["cells", "cells perceived"], ["boards", "boards perceived"]].filter(([key]) => scores.some(([, score]) => score[key]));
  const cell = (key, interval) => {
    if (!interval) return make("td", {}, "–");
    const shown = interval.map((value) => (key === "score" ? short(value) : `${(100 * value).toFixed(1)}%`));
    return make("td", {}, shown[0], make("small", {}, ` [${shown[1]}, ${shown[2]}]`));
  };
  view.append(make("section", {}, make("h2", {}, "Scores"), make("table", { class: "scores" },
    make("thead", {}, make("tr", {}, make("th", {}, "policy"), ...columns.map(([, name]) => make("th", {}, name)), make("th", {}, "runs"))),
    make("tbody", {}, ...scores.map(([policy, score]) => make("tr", {}, make("th", { scope: "row" }, policy),
      ...columns.map(([key]) => cell(key, score[key])), make("td", {}, String(score.num_runs))))))));
}
