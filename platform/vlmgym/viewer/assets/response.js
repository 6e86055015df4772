// Decides how one response is shown: its board at a turn, what it wrote, and the slider through an episode.

const TAGS = /<(perception|think|answer)>([\s\S]*?)<\/\1>/g;
const PLAY_MS = 700;
let player = null;

// turn: 0 to the number of turns, which is the board after the last one. onTurn(turn) is called by the slider.
function drawResponse(entry, chosen, turnNumber, marks, onTurn) {
  const view = document.getElementById("response");
  if (!entry) {
    view.replaceChildren();
    return;
  }
  const record = groupOf(entry);
  const branch = record.branches[chosen];
  const turn = branch.turns[turnNumber];
  const board = record.boards[turn ? turn.board : branch.end];
  const shown = turn ? shownMarks(board, turn, marks) : {};
  const many = record.branches.length > 1;
  const parts = [
    make("h2", {}, many ? `Response ${chosen + 1}` : turn ? `Turn ${turnNumber + 1}` : "The end",
      make("small", {}, many ? `of ${record.branches.length}` : `${branch.turns.length} turns`)),
    boardFigure(entry.layout, board, shown, turn ? `Board before turn ${turnNumber + 1}` : "Board at the end"),
    markLegend(marks),
    // A single decision needs no slider, but the board it led to is worth a look.
    episode(branch, turnNumber, onTurn),
    turn ? turnFacts(entry, branch, turn, board) : endFacts(branch),
    turn ? wroteWrong(entry, board, turn) : null,
    turn ? make("section", {}, make("h3", {}, "Wrote"), make("pre", { class: "wrote" }, ...marked(turn.response))) : null,
  ];
  const focused = document.activeElement?.id;
  const scrolled = view.scrollTop;
  view.replaceChildren(...parts.filter(Boolean));
  view.scrollTop = scrolled;
  if (focused === "turn" || focused === "play") document.getElementById(focused)?.focus();
}

function episode(branch, turnNumber, onTurn) {
  const last = branch.turns.length;
  const slider = make("input", {
    type: "range", id: "turn", min: 0, max: last, value: turnNumber, "aria-label": "Turn",
    "aria-valuetext": turnNumber < last ? `turn ${turnNumber + 1} of ${last}` : "the end",
  });
  slider.value = turnNumber;
  slider.addEventListener("input", () => { stopPlaying(); onTurn(Number(slider.value)); });
  const strip = last > 1 && last <= 200 ? make("div", { class: "strip", "aria-hidden": "true" }, ...branch.turns.map((turn, number) => make("i", {
    class: `${turn.refused ? "bad" : turn.game_reward > 0 ? "good" : "plain"}${number === turnNumber ? " now" : ""}`,
    onclick: () => { stopPlaying(); onTurn(number); },
  }))) : null;
  const step = (change) => () => { stopPlaying(); onTurn(turnNumber + change); };
  return make("div", { class: "episode" },
    make("div", { class: "episode-bar" },
      make("button", { id: "back", onclick: step(-1), disabled: turnNumber === 0, "aria-label": "Turn before" }, "‹"),
      make("button", { id: "play", onclick: () => togglePlaying(branch, turnNumber, onTurn), "aria-label": player ? "Pause" : "Play" }, player ? "❚❚" : "▶"),
      make("button", { id: "forward", onclick: step(1), disabled: turnNumber === last, "aria-label": "Turn after" }, "›"),
      slider,
      make("output", { id: "turn-name" }, turnNumber < last ? `turn ${turnNumber + 1} / ${last}` : "end")),
    strip);
}

function togglePlaying(branch, turnNumber, onTurn) {
  const last = branch.turns.length;
  if (player) {
    stopPlaying();
    onTurn(turnNumber);
    return;
  }
  let turn = turnNumber === last ? -1 : turnNumber;
  player = setInterval(() => {
    turn += 1;
    if (turn >= last) stopPlaying();
    onTurn(Math.min(turn, last));
  }, PLAY_MS);
  onTurn(Math.max(turn, 0));
}

function stopPlaying() {
  clearInterval(player);
  player = null;
}

function turnFacts(entry, branch, turn, board) {
  const { unit } = index.layouts[entry.layout];
  const facts = [
    ["Move", moveName(turn.move) ?? "names none"],
    ["Refused", turn.refused],
    ["Solver", moveName(board.best)],
    ["Reward", turn.reward === turn.game_reward ? signed(turn.reward, 1) : `${signed(turn.reward, 1)}, of it the game ${signed(turn.game_reward, 1)}`],
    ["Advantage", turn.advantage === undefined ? null : signed(turn.advantage)],
    ["Regret", turn.regret === undefined ? null : `${short(turn.regret)} ${unit}`],
    ["Tokens", turn.num_tokens === undefined ? null : `${turn.num_tokens}${turn.cut ? ", cut" : ""}`],
  ];
  return factList(facts);
}

function endFacts(branch) {
  const total = branch.turns.reduce((sum, turn) => sum + turn.reward, 0);
  const ending = branch.won ? "won" : branch.terminated ? "the game has ended" : "stopped here";
  return factList([["End", ending], ["Reward", signed(total, 1)], ["Turns", String(branch.turns.length)]]);
}

function factList(facts) {
  return make("dl", { class: "facts" }, ...facts.filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: name === "Refused" ? "bad" : null }, value)]));
}

function wroteWrong(entry, board, turn) {
  if (!turn.errors?.length) return null;
  const layout = index.layouts[entry.layout];
  const absent = turn.errors.filter(([, , error]) => error === "absent");
  const rows = turn.errors.filter(([, , error]) => error !== "absent").map(([row, col, error, written]) => make("tr", {},
    make("td", {}, `(${row}, ${col})`), make("td", {}, trueCell(layout, board, row, col)), make("td", {}, written || "–"),
    make("td", { title: index.errors[error] }, error.replace("_", " "))));
  if (absent.length) rows.push(make("tr", {}, make("td", { colspan: 4 }, `${absent.length} cells are not in the perception block`)));
  return make("section", {}, make("h3", {}, `Misread ${turn.errors.length === 1 ? "cell" : "cells"} (${turn.errors.length})`),
    make("table", { class: "errors" }, make("thead", {}, make("tr", {}, ...["cell", "is", "wrote", "error"].map((name) => make("th", {}, name)))),
      make("tbody", {}, ...rows)));
}

// The response with its blocks set apart.
function marked(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TAGS)) {
    const [whole, tag, content] = match;
    parts.push(text.slice(end, match.index), make("span", { class: `block ${tag}` }, make("b", {}, tag), content));
    end = match.index + whole.length;
  }
  return [...parts, text.slice(end)].filter((part) => part !== "");
}

function markLegend(marks) {
  const toggle = (key, name) => make("label", { class: `mark-${key}` },
    make("input", { type: "checkbox", id: `mark-${key}`, checked: marks[key], onchange: () => toggleMark(key) }), make("i"), name);
  return make("div", { class: "mark-legend" }, toggle("errors", "misread cells"), toggle("move", "move"), toggle("best", "solver's move"));
}
