// Decides which groups match the filters, in which order, and which responses of a group do.

const ORDERS = {
  saved: ["as saved", (a, b) => a.number - b.number],
  worst: ["lowest mean reward first", (a, b) => a.mean - b.mean],
  best: ["highest mean reward first", (a, b) => b.mean - a.mean],
  spread: ["widest spread of rewards first", (a, b) => b.spread - a.spread],
  wrong: ["most responses with cell errors first", (a, b) => b.wrong - a.wrong],
  long: ["longest episodes first", (a, b) => b.turns - a.turns],
};
entries.forEach((entry, number) => { entry.number = number; });

const filterIds = ["iteration", "game", "level", "outcome", "error", "low", "high", "order"];
const filterInputs = Object.fromEntries(filterIds.map((id) => [id, document.getElementById(`filter-${id}`)]));

function fillFilters() {
  const games = [...new Set(index.layouts.map((layout) => layout.game))];
  const levels = [...new Set(index.layouts.map((layout) => layout.level))];
  const iterations = index.iterations.map((_, number) => [number, `${iterationName(number)} (${index.iterations[number].groups.length})`]);
  fillSelect("iteration", [["", `all (${entries.length} groups)`], ...iterations]);
  fillSelect("game", [["", "all"], ...games.map((game) => [game, game])]);
  fillSelect("level", [["", "all"], ...levels.map((level) => [level, level])]);
  fillSelect("outcome", [["", "any"], ...Object.entries(index.outcomes)]);
  fillSelect("error", [["", "any"], ["none", "none"], ["some", "at least one"], ...errorNames.map((name) => [name, name.replace("_", " ")])]);
  fillSelect("order", Object.entries(ORDERS).map(([key, [name]]) => [key, name]));
}

function fillSelect(id, options) {
  filterInputs[id].replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

// The entries that match, in order; a group matches when one of its responses does.
function matchingEntries() {
  const { iteration, game, level, order } = filterValues();
  const found = entries.filter((entry) => {
    const layout = index.layouts[entry.layout];
    return (iteration === "" || entry.iteration === Number(iteration)) && (!game || layout.game === game)
      && (!level || layout.level === level) && entry.rewards.some((_, branch) => branchMatches(entry, branch));
  });
  return found.sort((a, b) => ORDERS[order][1](a, b) || a.number - b.number);
}

function branchMatches(entry, branch) {
  const { outcome, error, low, high } = filterValues();
  const reward = entry.rewards[branch];
  const errors = entry.errors[branch];
  return (low === "" || reward >= Number(low)) && (high === "" || reward <= Number(high))
    && (!outcome || hasBit(entry.outcomes[branch], outcomeNames.indexOf(outcome)))
    && (!error || (error === "none" ? errors === 0 : error === "some" ? errors !== 0 : hasBit(errors, errorNames.indexOf(error))));
}

function isFiltered() {
  const values = filterValues();
  return ["outcome", "error", "low", "high"].some((id) => values[id] !== "");
}

function filterValues() {
  return Object.fromEntries(filterIds.map((id) => [id, filterInputs[id].value]));
}

function hasBit(bits, place) {
  return ((bits >> place) & 1) === 1;
}
