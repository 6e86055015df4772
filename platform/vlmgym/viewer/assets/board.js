// Decides how a board is drawn, and what is marked on it: cells perceived wrong, the move, the solver's move.

const ERROR_SIGNS = {
  absent: "∅", surplus: "+", malformed: "?", shifted: "↔", missing: "–", ghost: "+",
  wrong_color: "C", wrong_shape: "S", wrong_tile: "T",
};
const DIRECTIONS = { up: [-1, 0], right: [0, 1], down: [1, 0], left: [0, -1] };
const DIRECTION_NUMBERS = Object.keys(DIRECTIONS);
const SHEET_COLUMNS = 16;
const COARSE_PX = 40; // Tiles below are shown as pixels, not blurred.
const sheets = new Map();

// Resolves when boards can be drawn.
async function loadSheets() {
  const drawn = index.layouts.map(async ({ sheet }, layout) => {
    if (sheet) sheets.set(layout, await loadImage(sheet));
  });
  await Promise.all(drawn);
}

// A figure with the picture of `board`. marks: {errors, counts, move, best}, each optional.
function boardFigure(layoutNumber, board, marks = {}, label = "Board") {
  const layout = index.layouts[layoutNumber];
  const [rows, cols] = [board.cells.length, board.cells[0].length];
  const side = layout.tile_px ?? 0;
  const border = layout.border_px;
  const canvas = make("canvas", { role: "img", "aria-label": label, class: side < COARSE_PX ? "coarse" : null });
  const figure = make("figure", { class: "board" }, canvas);
  if (board.tiles) {
    [canvas.width, canvas.height] = [cols * side + 2 * border, rows * side + 2 * border];
    drawTiles(canvas, layoutNumber, board.tiles, cols, side, border);
  } else {
    loadImage(board.picture).then((image) => {
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      canvas.getContext("2d").drawImage(image, 0, 0);
    });
  }
  if (side) {
    // One unit is a cell, so that marks are as wide in every picture.
    const edge = border / side;
    const overlay = make("svg", {
      viewBox: `${-edge} ${-edge} ${cols + 2 * edge} ${rows + 2 * edge}`, class: "marks", "aria-hidden": "true",
    });
    if (marks.best) markMove(overlay, marks.best, "best", rows, cols);
    if (marks.move) markMove(overlay, marks.move, "move", rows, cols);
    markErrors(overlay, layout, board, marks);
    figure.append(overlay);
  }
  return figure;
}

function drawTiles(canvas, layout, tiles, cols, side, border) {
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  tiles.forEach((tile, cell) => {
    const [left, top] = [(tile % SHEET_COLUMNS) * side, Math.floor(tile / SHEET_COLUMNS) * side];
    const [x, y] = [border + (cell % cols) * side, border + Math.floor(cell / cols) * side];
    context.drawImage(sheets.get(layout), left, top, side, side, x, y, side, side);
  });
}

function markErrors(overlay, layout, board, { errors = [], counts }) {
  for (const [row, col, error, written] of errors) {
    const mark = make("g", { class: "error" },
      make("rect", { x: col + 0.04, y: row + 0.04, width: 0.92, height: 0.92, rx: 0.06 }),
      make("text", { x: col + 0.8, y: row + 0.34 }, ERROR_SIGNS[error]),
      make("title", {}, errorText(layout, board, row, col, error, written)));
    overlay.append(mark);
  }
  for (const [key, { count, of }] of counts ?? []) {
    const [row, col] = key.split(",").map(Number);
    overlay.append(make("g", { class: "error count" },
      make("rect", { x: col + 0.04, y: row + 0.04, width: 0.92, height: 0.92, rx: 0.06, "fill-opacity": 0.6 * count / of }),
      make("text", { x: col + 0.8, y: row + 0.34 }, String(count)),
      make("title", {}, `${trueCell(layout, board, row, col)} at (${row}, ${col}): ${count} of ${of} responses wrong`)));
  }
}

function errorText(layout, board, row, col, error, written) {
  const wrote = written === null ? "wrote nothing" : `wrote ${written || "an empty cell"}`;
  return `(${row}, ${col}) is ${trueCell(layout, board, row, col)}, ${wrote}: ${index.errors[error]}`;
}

function trueCell(layout, board, row, col) {
  return layout.words[board.cells[row][col]];
}

// A move as people read it: some games write directions as numbers.
function moveName(move) {
  return DIRECTION_NUMBERS[move] ?? move;
}

// A move is two cells, "(0, 1) (2, 3)", or a direction.
function markMove(overlay, move, kind, rows, cols) {
  const cells = [...move.matchAll(/\((\d+), (\d+)\)/g)].map(([, row, col]) => [Number(row), Number(col)]);
  const group = make("g", { class: kind });
  const inset = kind === "best" ? 0.14 : 0.06;
  for (const [row, col] of cells) {
    group.append(make("rect", { x: col + inset, y: row + inset, width: 1 - 2 * inset, height: 1 - 2 * inset, rx: 0.1 }));
  }
  if (cells.length === 2) {
    const [[y1, x1], [y2, x2]] = cells.map(([row, col]) => [row + 0.5, col + 0.5]);
    group.append(make("line", { x1, y1, x2, y2 }));
  } else if (DIRECTIONS[moveName(move)]) {
    group.append(arrow(DIRECTIONS[moveName(move)], rows, cols, kind === "best" ? 0.62 : 1));
  }
  overlay.append(group);
}

function arrow([down, right], rows, cols, scale) {
  const reach = Math.min(rows, cols) * 0.36 * scale;
  const head = reach * 0.35;
  const [x, y] = [cols / 2 + right * reach, rows / 2 + down * reach];
  const [backX, backY] = [x - right * head, y - down * head];
  return make("path", {
    d: `M ${cols / 2 - right * reach} ${rows / 2 - down * reach} L ${x} ${y} ` +
      `M ${backX - down * head} ${backY - right * head} L ${x} ${y} L ${backX + down * head} ${backY + right * head}`,
  });
}

function loadImage(url) {
  const image = new Image();
  image.src = url;
  return image.decode().then(() => image);
}
