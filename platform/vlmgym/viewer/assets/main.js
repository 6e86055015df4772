// Decides what is shown now, and how clicks, keys and the address move on from there.

const TABS = ["groups", "curves", "settings"];
const now = { tab: "groups", found: [], place: 0, branch: 0, turn: 0, marks: { errors: true, move: true, best: true } };

const KEYS = [
  [["ArrowDown", "j"], "↓ or j", "next group", () => move(1)],
  [["ArrowUp", "k"], "↑ or k", "group before", () => move(-1)],
  [["ArrowRight", "l"], "→ or l", "next response", () => moveBranch(1)],
  [["ArrowLeft", "h"], "← or h", "response before", () => moveBranch(-1)],
  [["]"], "]", "next iteration", () => moveIteration(1)],
  [["["], "[", "iteration before", () => moveIteration(-1)],
  [["."], ".", "next turn of the episode", () => showTurn(now.turn + 1)],
  [[","], ",", "turn before", () => showTurn(now.turn - 1)],
  [[" "], "space", "play or pause the episode", () => document.getElementById("play")?.click()],
  [["e"], "e", "misread cells on or off", () => toggleMark("errors")],
  [["m"], "m", "moves on or off", () => toggleMark("move")],
  [["s"], "s", "the solver's moves on or off", () => toggleMark("best")],
  [["g"], "g", "groups", () => showTab("groups")],
  [["c"], "c", "curves", () => showTab("curves")],
  [["?"], "?", "these keys", () => document.getElementById("help").showModal()],
];

function current() {
  return now.found[now.place];
}

function show() {
  const entry = current();
  drawList(now.found, entry?.number, choose);
  drawGroup(entry, now.branch, now.turn, now.marks, showBranch, showTurn);
  drawResponse(entry, now.branch, now.turn, now.marks, showTurn);
  writeAddress();
}

function refilter() {
  const kept = current()?.number;
  now.found = matchingEntries();
  document.getElementById("found").textContent = `${now.found.length} of ${entries.length} groups`;
  const place = now.found.findIndex((entry) => entry.number === kept);
  if (place < 0) list.scrollTop = 0;
  goTo(Math.max(place, 0), place < 0 ? 0 : now.branch);
}

function choose(entry) {
  goTo(now.found.indexOf(entry), 0);
}

function goTo(place, branch, turn = 0) {
  stopPlaying();
  [now.place, now.branch, now.turn] = [place, branch, turn];
  scrollToRow(place);
  show();
}

function move(change) {
  if (now.found.length) goTo(Math.min(now.found.length - 1, Math.max(0, now.place + change)), 0);
}

function moveBranch(change) {
  const count = current()?.rewards.length;
  if (count) showBranch((now.branch + change + count) % count);
}

// To the first group of the next iteration that has one among those found.
function moveIteration(change) {
  const iteration = current()?.iteration;
  const iterations = [...new Set(now.found.map((entry) => entry.iteration))].sort((a, b) => a - b);
  const next = iterations[iterations.indexOf(iteration) + change];
  if (next !== undefined) goTo(now.found.findIndex((entry) => entry.iteration === next), 0);
}

function showBranch(branch) {
  stopPlaying();
  [now.branch, now.turn] = [branch, 0];
  show();
  document.querySelector(".card.chosen")?.scrollIntoView({ block: "nearest" });
}

function showTurn(turn) {
  const last = current() ? groupOf(current()).branches[now.branch].turns.length : 0;
  now.turn = Math.min(last, Math.max(0, turn));
  drawResponse(current(), now.branch, now.turn, now.marks, showTurn);
  if (current()?.rewards.length === 1) {
    drawGroup(current(), now.branch, now.turn, now.marks, showBranch, showTurn);
    document.querySelector(".card.chosen")?.scrollIntoView({ block: "nearest" });
  }
  writeAddress();
}

function toggleMark(key) {
  now.marks[key] = !now.marks[key];
  show();
}

function showTab(tab) {
  now.tab = tab;
  for (const name of TABS) {
    document.getElementById(`view-${name}`).hidden = name !== tab;
    document.getElementById(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
  }
  if (tab === "curves" && !document.getElementById("view-curves").children.length) drawCurves(showIteration);
  if (tab === "groups") show();
  writeAddress();
}

// The saved iteration nearest to a step of a stage.
function showIteration(stage, step) {
  const near = index.iterations.map((iteration, number) => ({ ...iteration, number })).filter((iteration) => iteration.stage === stage)
    .sort((a, b) => Math.abs(a.step - step) - Math.abs(b.step - step))[0];
  if (!near) return;
  filterInputs.iteration.value = String(near.number);
  showTab("groups");
  refilter();
}

// The address says what is shown, so that it can be kept and sent: #groups/grpo-10/42/3/0, or #curves.
function writeAddress() {
  const entry = current();
  const { stage, step } = entry ? index.iterations[entry.iteration] : {};
  const place = now.tab === "groups" && entry ? `/${stage}-${step}/${entry.id}/${now.branch + 1}/${now.turn}` : "";
  history.replaceState(null, "", `#${now.tab}${place}`);
}

function readAddress() {
  const [tab, iteration, id, branch, turn] = location.hash.slice(1).split("/");
  if (iteration) {
    const place = now.found.findIndex((entry) => {
      const { stage, step } = index.iterations[entry.iteration];
      return `${stage}-${step}` === iteration && entry.id === Number(id);
    });
    if (place >= 0) {
      const { branches } = groupOf(now.found[place]);
      const branchNumber = Math.min(branches.length, Math.max(1, Number(branch) || 1)) - 1;
      goTo(place, branchNumber, Math.min(branches[branchNumber].turns.length, Math.max(0, Number(turn) || 0)));
    }
  }
  return TABS.includes(tab) ? tab : entries.length ? "groups" : "curves";
}

async function start() {
  document.getElementById("title").textContent = index.title;
  if (Object.keys(index.scores).length) document.getElementById("tab-curves").textContent = "Scores";
  document.getElementById("settings").textContent = index.settings;
  document.getElementById("help-keys").append(...KEYS.flatMap(([, name, what]) => [make("dt", {}, name), make("dd", {}, what)]));
  fillFilters();
  document.getElementById("filters").addEventListener("input", refilter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("clear").addEventListener("click", () => { document.getElementById("filters").reset(); refilter(); });
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
  TABS.forEach((tab) => document.getElementById(`tab-${tab}`).addEventListener("click", () => showTab(tab)));
  list.addEventListener("scroll", () => requestAnimationFrame(() => drawList(now.found, current()?.number, choose)));
  addEventListener("resize", () => drawList(now.found, current()?.number, choose));
  addEventListener("keydown", onKey);
  await loadSheets();
  const { hash } = location;
  refilter();
  history.replaceState(null, "", hash || "#");
  showTab(readAddress());
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start();
