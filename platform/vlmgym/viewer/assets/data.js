// Decides what the program knows: the index, read at once, and each iteration's groups, read when one is shown.

const index = readElement("index");
const errorNames = Object.keys(index.errors);
const outcomeNames = Object.keys(index.outcomes);

// One entry per group, in the order of the page: what the list and the filters need.
const entries = index.iterations.flatMap((iteration, number) =>
  iteration.groups.map(([id, layout, rewards, errors, outcomes, turns], place) => ({
    iteration: number, place, id, layout, rewards, errors, outcomes, turns,
    mean: mean(rewards), spread: spread(rewards),
    wrong: errors.filter((bits) => bits !== 0).length,
  })));

const chunks = new Map();

// The whole record of a group.
function groupOf(entry) {
  if (!chunks.has(entry.iteration)) chunks.set(entry.iteration, readElement(`groups-${entry.iteration}`));
  return chunks.get(entry.iteration)[entry.place];
}

function iterationName(number) {
  const { stage, step } = index.iterations[number];
  return stage === "evaluation" ? "evaluation" : `${stage} ${step}`;
}

// What a group is called: an evaluation has runs, of one episode each.
function kindOf(entry) {
  return index.iterations[entry.iteration].stage === "evaluation" ? "Run" : "Group";
}

function readElement(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function spread(values) {
  const middle = mean(values);
  return values.length > 1
    ? Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1)) : 0;
}

// A new element: make("button", { class: "x", onclick: f }, "text", child, ...).
function make(tag, properties = {}, ...children) {
  const svg = ["svg", "g", "path", "rect", "line", "text", "circle", "polyline", "title", "defs", "marker"];
  const element = svg.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function signed(value, digits = 2) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

// The color of a number: above, at or below nothing.
function tone(value) {
  return value > 0 ? "good" : value < 0 ? "bad" : "plain";
}

// 1.5 as "1.5", 2 as "2", 0.333333 as "0.333".
function short(value) {
  return String(Number(value.toPrecision(3))).replace("-", "−");
}
