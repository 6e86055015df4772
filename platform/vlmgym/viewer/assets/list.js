// Decides how the list of groups is shown: only the rows in sight exist, so that thousands scroll as well as ten.

const ROW_PX = 46;
const EXTRA_ROWS = 6;
const list = document.getElementById("list");
const listSpace = document.getElementById("list-space");

// entriesShown: what matches. chosen: the number of an entry. onChoose(entry) is called by a click.
function drawList(entriesShown, chosen, onChoose) {
  listSpace.style.height = `${entriesShown.length * ROW_PX}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - EXTRA_ROWS);
  const last = Math.min(entriesShown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_PX) + EXTRA_ROWS);
  const rows = [];
  for (let place = first; place < last; place += 1) rows.push(listRow(entriesShown, place, chosen, onChoose));
  listSpace.replaceChildren(...rows);
  list.setAttribute("aria-activedescendant", rows.some((row) => row.id === `row-${chosen}`) ? `row-${chosen}` : "");
}

function listRow(entriesShown, place, chosen, onChoose) {
  const entry = entriesShown[place];
  const layout = index.layouts[entry.layout];
  const bars = make("span", { class: "bars", "aria-hidden": "true" }, ...entry.rewards.slice(0, 16).map((reward) =>
    make("i", { class: tone(reward), style: `height:${barHeight(reward)}%` })));
  return make("div", {
    role: "option", id: `row-${entry.number}`, class: "row", "aria-selected": entry.number === chosen ? "true" : "false",
    "aria-posinset": place + 1, "aria-setsize": entriesShown.length, style: `top:${place * ROW_PX}px`,
    onclick: () => onChoose(entry),
  },
  make("span", { class: "row-name" }, make("b", {}, `#${entry.id}`), make("small", {}, ` ${iterationName(entry.iteration)}`),
    make("small", { class: "row-level" }, `${layout.game} · ${layout.level}`)),
  bars,
  make("span", { class: `row-mean ${tone(entry.mean)}`, title: "mean reward" }, `${entry.mean > 0 ? "+" : ""}${short(entry.mean)}`));
}

function scrollToRow(place) {
  const top = place * ROW_PX;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
}

const largestReward = entries.reduce((most, entry) => entry.rewards.reduce((kept, reward) => Math.max(kept, Math.abs(reward)), most), 1e-9);

function barHeight(reward) {
  return Math.max(8, (100 * Math.abs(reward)) / largestReward);
}
