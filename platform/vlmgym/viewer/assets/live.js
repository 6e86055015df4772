// Decides how a game is watched: what is asked of the server, and what of its answers is shown when.

const DWELL_MS = 900; // So long a move stays marked on its board before the next turn begins by itself.
const MAX_REFUSED = 5; // So many bad answers in a row end playing by itself: the next ones would be no better.

// turns: {board, turn} each. live: the response that is being written, else null. shown: the turn looked at, or -1.
const play = { name: null, about: null, board: null, turns: [], live: null, shown: -1, auto: false, request: null, timer: null };

const KEYS = [
  [["n", "Enter"], "n or enter", "next turn", () => click("next")],
  [["a", " "], "a or space", "play by itself, or pause after this turn", () => click("auto")],
  [["Escape"], "escape", "stop the response that is being written", () => click("stop")],
  [["g"], "g", "new game", () => click("new")],
  [[","], ",", "turn before", () => look(play.shown - 1)],
  [["."], ".", "turn after", () => look(play.shown + 1)],
  [["?"], "?", "these keys", () => element("help").showModal()],
];

function element(id) {
  return document.getElementById(id);
}

function click(id) {
  if (!element(id).disabled) element(id).click();
}

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `${path}: ${response.status} ${response.statusText}`);
  return response;
}

async function begin() {
  pause();
  play.request?.abort();
  const chosen = { game: element("game").value, level: element("level").value, seed: Number(element("seed").value) };
  try {
    const { name, about, board } = await (await post("/game", chosen)).json();
    index.layouts[0] = { ...about, words: [] };
    Object.assign(play, { name, about, board: drawable(board), turns: [], live: null, shown: -1 });
    showError(null);
  } catch (error) {
    showError(error.message);
  }
  show();
}

// One turn: the response is shown while it is written, then the move on the board it was made on.
async function playTurn() {
  if (play.live !== null || isOver() || !play.name) return;
  const request = new AbortController();
  Object.assign(play, { live: "", shown: -1, request });
  showError(null);
  show();
  try {
    const response = await post("/turn", { name: play.name }, request.signal);
    for await (const event of lines(response)) {
      if (request.signal.aborted) return;
      if (event.text !== undefined) {
        play.live += event.text;
        showResponse();
      } else if (event.turn) {
        play.turns.push({ board: play.board, turn: event.turn });
        Object.assign(play, { board: drawable(event.board), shown: play.turns.length - 1 });
      } else {
        throw new Error(event.error);
      }
    }
  } catch (error) {
    pause();
    if (!request.signal.aborted) showError(error.message);
  }
  if (play.request !== request) return; // another game has begun
  Object.assign(play, { live: null, request: null });
  goOn();
  show();
}

// Where it plays by itself, the next turn follows, unless the policy is stuck.
function goOn() {
  const last = play.turns.slice(-MAX_REFUSED);
  if (last.length === MAX_REFUSED && last.every(({ turn }) => turn.refused) && play.auto) {
    pause();
    showError(`paused: the last ${MAX_REFUSED} answers were refused`);
  }
  if (isOver()) pause();
  if (play.auto) play.timer = setTimeout(playTurn, DWELL_MS);
}

function toggleAuto() {
  if (play.auto) return pause();
  play.auto = true;
  showControls();
  if (play.live === null) playTurn();
}

function pause() {
  clearTimeout(play.timer);
  play.auto = false;
  showControls();
}

function stop() {
  pause();
  play.request?.abort();
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts.map((part) => JSON.parse(part));
  }
  if (rest) throw new Error("the server's answer broke off");
}

function isOver() {
  return play.turns.at(-1)?.turn.over ?? false;
}

// A board as boardFigure takes it: what stands in its cells as numbers of words.
function drawable({ picture, cells }) {
  const { words } = index.layouts[0];
  const number = (cell) => (words.includes(cell) ? words.indexOf(cell) : words.push(cell) - 1);
  return { picture, cells: cells.map((row) => row.map(number)) };
}

function look(turn) {
  if (play.live !== null) return;
  play.shown = Math.min(play.turns.length - 1, Math.max(-1, turn));
  show();
}

function show() {
  showControls();
  showBoard();
  showTurns();
  showResponse();
}

function showControls() {
  const isWriting = play.live !== null;
  element("next").disabled = isWriting || play.auto || isOver() || !play.name;
  element("auto").disabled = isOver() || !play.name;
  element("auto").setAttribute("aria-pressed", String(play.auto));
  element("auto").textContent = play.auto ? "Pause" : "Auto";
  element("stop").disabled = !isWriting;
}

function showBoard() {
  const past = play.turns[play.shown];
  const board = past?.board ?? play.board;
  element("score").textContent = `Score ${short(play.turns.at(-1)?.turn.score ?? 0)}`;
  element("state").textContent = stateName();
  if (!board) return;
  const turn = past?.turn;
  const marks = turn ? { errors: turn.errors, move: turn.move, best: turn.best } : {};
  element("board").replaceChildren(boardFigure(0, board, marks, turn ? `Board before turn ${play.shown + 1}` : "Board now"));
}

function stateName() {
  const last = play.turns.at(-1)?.turn;
  if (last?.over) return last.won ? "won" : "the game has ended";
  if (play.live !== null) return `turn ${play.turns.length + 1} is being played`;
  return play.turns.length === 1 ? "1 turn" : `${play.turns.length} turns`;
}

function showTurns() {
  const turns = play.turns.map(({ turn }, number) => make("button", {
    type: "button", role: "option", "aria-selected": String(number === play.shown), onclick: () => look(number),
    class: turn.refused ? "bad" : turn.reward > 0 ? "good" : "plain", title: moveName(turn.move) ?? "names no move",
  }, String(number + 1)));
  element("turns").replaceChildren(...turns);
}

function showResponse() {
  const turn = play.live === null ? play.turns[play.shown]?.turn : undefined;
  const text = play.live ?? turn?.response ?? "";
  element("heading").textContent = play.live !== null ? `Turn ${play.turns.length + 1}` : turn ? `Turn ${play.shown + 1}` : "Nothing written yet";
  const view = element("wrote");
  view.classList.toggle("writing", play.live !== null);
  view.replaceChildren(...markedSoFar(text));
  if (play.live !== null) view.parentElement.scrollTop = view.parentElement.scrollHeight;
  element("facts").replaceChildren(...(turn ? [liveFacts(turn)] : []));
  const wrong = turn && wroteWrong({ layout: 0 }, play.turns[play.shown].board, turn);
  element("wrong").replaceChildren(...(wrong ? [wrong] : []));
}

// A response whose last block may still be open.
function markedSoFar(text) {
  const open = ["perception", "think", "answer"].filter((tag) => text.lastIndexOf(`<${tag}>`) > text.lastIndexOf(`</${tag}>`)).at(-1);
  return marked(open ? `${text}</${open}>` : text);
}

function liveFacts(turn) {
  return factList([
    ["Move", moveName(turn.move) ?? "names none"],
    ["Refused", turn.refused],
    ["Solver", moveName(turn.best)],
    ["Reward", signed(turn.reward, 1)],
    ["Regret", turn.regret === null ? null : `${short(turn.regret)} ${play.about.unit}`],
    ["Perception", turn.errors.length ? null : "exact"],
    ["Cut", turn.cut ? "at the token limit" : null],
  ]);
}

function showError(message) {
  element("error").hidden = message === null;
  element("error").textContent = message ?? "";
}

async function showPolicy() {
  const { model, url, error } = await (await fetch("/policy")).json();
  element("policy").textContent = model ? `${model} at ${url}` : url;
  if (error) showError(error);
}

function fillLevels(chosen) {
  const levels = index.games[element("game").value];
  element("level").replaceChildren(...levels.map((level) => make("option", { value: level, selected: level === chosen }, level)));
}

async function start() {
  const { game, level, seed } = index.first;
  element("game").append(...Object.keys(index.games).map((name) => make("option", { value: name, selected: name === game }, name)));
  fillLevels(level);
  element("seed").value = seed;
  element("help-keys").append(...KEYS.flatMap(([, name, what]) => [make("dt", {}, name), make("dd", {}, what)]));
  element("game").addEventListener("change", () => fillLevels());
  element("choice").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  element("next").addEventListener("click", playTurn);
  element("auto").addEventListener("click", toggleAuto);
  element("stop").addEventListener("click", stop);
  element("theme").addEventListener("click", toggleTheme);
  element("keys").addEventListener("click", () => element("help").showModal());
  addEventListener("keydown", onKey);
  await begin();
  await showPolicy();
  document.documentElement.dataset.ready = "1";
}

start();
