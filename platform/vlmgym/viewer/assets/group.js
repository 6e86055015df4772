// Decides how a group is shown: the board all its responses start from, and the responses side by side.

const MAX_TURNS_SHOWN = 120;

// marks: which of {errors, move, best} are drawn. onBranch(branch) and onTurn(turn) are called by clicks.
function drawGroup(entry, chosen, turnNumber, marks, onBranch, onTurn) {
  const view = document.getElementById("group");
  if (!entry) {
    view.replaceChildren(make("p", { class: "empty" }, entries.length ? "No group matches the filters." : "This run has no saved groups yet."));
    return;
  }
  const record = groupOf(entry);
  const cards = record.branches.length === 1 ? turnCards(entry, record, turnNumber, marks, onTurn)
    : record.branches.map((branch, number) => responseCard(entry, record, branch, number, number === chosen, marks, onBranch));
  view.replaceChildren(groupHead(entry, record, marks), make("div", { class: "cards", role: "group", "aria-label": "Responses" }, ...cards));
}

// An episode alone is shown turn by turn: around the chosen turn, where there are many.
function turnCards(entry, record, chosen, marks, onTurn) {
  const { turns } = record.branches[0];
  const first = Math.max(0, Math.min(turns.length - MAX_TURNS_SHOWN, chosen - MAX_TURNS_SHOWN / 2));
  return turns.slice(first, first + MAX_TURNS_SHOWN).map((turn, place) => {
    const number = first + place;
    return make("button", {
      class: `card${number === chosen ? " chosen" : ""}`, "aria-pressed": number === chosen ? "true" : "false",
      "aria-label": `Turn ${number + 1}, reward ${short(turn.reward)}`, "data-turn": number, onclick: () => onTurn(number),
    },
    make("span", { class: "card-head" }, make("b", {}, String(number + 1)),
      make("span", { class: `reward ${tone(turn.reward)}` }, signed(turn.reward, 1))),
    boardFigure(entry.layout, record.boards[turn.board], shownMarks(record.boards[turn.board], turn, marks), `Board of turn ${number + 1}`),
    make("span", { class: "move-text" }, moveName(turn.move) ?? "no move"),
    make("span", { class: "badges" }, ...badges({ turns: [turn] })));
  });
}

// What is marked on the board of a turn.
function shownMarks(board, turn, marks) {
  return { errors: marks.errors ? turn.errors : [], move: marks.move ? turn.move : null, best: marks.best ? board.best : null };
}

function groupHead(entry, record, marks) {
  const layout = index.layouts[entry.layout];
  const start = record.boards[0];
  const many = record.branches.length > 1;
  const counts = marks.errors ? wrongCounts(record) : [];
  const numLegal = entry.outcomes.filter((bits) => hasBit(bits, outcomeNames.indexOf("legal"))).length;
  const facts = [
    ["Level", `${layout.game} · ${layout.level}`],
    ["Reward", many ? `${signed(entry.mean)} ± ${entry.spread.toFixed(2)}` : signed(entry.mean)],
    ["Legal", many ? `${numLegal} of ${record.branches.length}` : `${record.branches[0].turns.filter((turn) => !turn.refused).length} of ${record.branches[0].turns.length} moves`],
    ["Solver", moveName(start.best) ?? "–"],
    ["Weights", record.weights_version === undefined ? null : `version ${record.weights_version}`],
    ["Misread", misread(entry)],
  ];
  return make("header", { class: "group-head" },
    boardFigure(entry.layout, start, { counts, best: marks.best ? start.best : null }, `Start board of group ${entry.id}`),
    make("div", { class: "group-facts" },
      make("h2", {}, `${kindOf(entry)} ${entry.id}`, make("small", {}, iterationName(entry.iteration))),
      make("dl", {}, ...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      many ? make("p", { class: "hint" }, "All responses start from this board. ", counts.length ? "Numbers: how many of them misread a cell." : "") : null));
}

// How many responses misread each cell of the start board: [["row,col", {count, of}], ...].
function wrongCounts(record) {
  const counts = new Map();
  const of = record.branches.length;
  for (const branch of record.branches) {
    for (const [row, col] of branch.turns[0].board === 0 ? branch.turns[0].errors ?? [] : []) {
      const key = `${row},${col}`;
      counts.set(key, { count: (counts.get(key)?.count ?? 0) + 1, of });
    }
  }
  return of > 1 ? [...counts] : [];
}

// "wrong color ×3, missing ×1": how many responses have each class of error.
function misread(entry) {
  const found = errorNames.map((name, bit) => [name, entry.errors.filter((bits) => hasBit(bits, bit)).length]).filter(([, count]) => count);
  return found.map(([name, count]) => `${name.replace("_", " ")} ×${count}`).join(", ") || "nothing";
}

function responseCard(entry, record, branch, number, isChosen, marks, onBranch) {
  const turn = branch.turns[0];
  const reward = entry.rewards[number];
  const board = record.boards[turn.board];
  return make("button", {
    class: `card${isChosen ? " chosen" : ""}${isFiltered() && !branchMatches(entry, number) ? " faded" : ""}`,
    "aria-pressed": isChosen ? "true" : "false", "aria-label": `Response ${number + 1}, reward ${short(reward)}`, "data-branch": number,
    onclick: () => onBranch(number),
  },
  make("span", { class: "card-head" }, make("b", {}, String(number + 1)),
    make("span", { class: `reward ${tone(reward)}` }, signed(reward, 1))),
  turn.advantage === undefined ? null : advantageBar(turn.advantage),
  boardFigure(entry.layout, board, shownMarks(board, turn, marks), `Board of response ${number + 1}`),
  make("span", { class: "move-text" }, moveName(turn.move) ?? "no move"),
  make("span", { class: "badges" }, ...badges(branch)));
}

// A bar from the middle: to the right for a positive advantage, to the left for a negative one.
function advantageBar(advantage) {
  const width = Math.min(50, 50 * Math.abs(advantage) / 2.5);
  return make("span", { class: "advantage", title: "advantage" },
    make("span", { class: "track" }, make("i", { class: advantage >= 0 ? "good" : "bad", style: `width:${width}%;${advantage >= 0 ? "left:50%" : `left:${50 - width}%`}` })),
    make("small", {}, `A ${signed(advantage)}`));
}

function badges(branch) {
  const turns = branch.turns;
  const wrong = turns.reduce((sum, turn) => sum + (turn.errors?.length ?? 0), 0);
  const refused = turns.filter((turn) => turn.refused).length;
  const found = [];
  if (turns.length > 1) found.push(badge("plain", `${turns.length} turns`));
  if (branch.won) found.push(badge("good", "won"));
  found.push(refused ? badge("bad", turns.length > 1 ? `${refused} refused` : "refused", turns[0].refused) : badge("good", "legal"));
  if (wrong) found.push(badge("error", `${wrong} misread`));
  if (turns.some((turn) => !turn.well_formed)) found.push(badge("bad", "tags missing"));
  if (turns.some((turn) => turn.cut)) found.push(badge("bad", "cut"));
  return found;
}

function badge(kind, text, title = null) {
  return make("span", { class: `badge ${kind}`, title }, text);
}
