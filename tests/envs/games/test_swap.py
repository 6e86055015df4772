from collections import Counter
from hashlib import blake2b
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs import Game, make_game
from vlmgym_envs.games._matching import Matching, swapped
from vlmgym_envs.games._stream import draw_below, new_stream
from vlmgym_envs.games.swap import MAX_WARM_UP, SwapLevel, SwapState

AnyGame = Game[Any, Any, Any]

NAMES = {".": "Empty", "R": "Red circle", "G": "Green circle", "B": "Blue circle", "Y": "Yellow circle"}
NAMES |= {"M": "Magenta circle", "C": "Cyan circle"}
LETTERS = {name: letter for letter, name in NAMES.items()}


def letters_game(picture: str, **knobs: object) -> AnyGame:
    """A level without refill whose board has the size of the picture and whose tiles are six letters."""
    lines = picture.split()
    size = {"rows": len(lines), "cols": len(lines[0])}
    return make_game("swap", "tiny", colors=6, shapes=1, **{"refill": False, **size, **knobs})


def read(game: AnyGame, picture: str) -> Any:
    return game.from_text("\n".join(" | ".join(NAMES[letter] for letter in line) for line in picture.split()))


def picture_of(game: AnyGame, state: Any) -> str:
    return " ".join("".join(LETTERS[cell] for cell in row) for row in game.cells(game.describe(state)))


def cells_in_runs(rows: list[list[int]], run_length: int) -> set[tuple[int, int]]:
    """By looking at every window."""
    found: set[tuple[int, int]] = set()
    for (row, line), col, (down, right) in product(enumerate(rows), range(len(rows[0])), ((0, 1), (1, 0))):
        window = [(row + step * down, col + step * right) for step in range(run_length)]
        inside = window[-1][0] < len(rows) and window[-1][1] < len(line)
        if inside and rows[row][col] and len({rows[r][c] for r, c in window}) == 1:
            found |= set(window)
    return found


def legal_pairs(rows: list[list[int]], run_length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """By trying every swap of neighbours."""
    found = []
    for row, col in product(range(len(rows)), range(len(rows[0]))):
        for other in ((row, col + 1), (row + 1, col)):
            if other[0] == len(rows) or other[1] == len(rows[0]):
                continue
            first, second = rows[row][col], rows[other[0]][other[1]]
            if not first or not second or first == second:
                continue
            after = [list(line) for line in rows]
            after[row][col], after[other[0]][other[1]] = second, first
            if cells_in_runs(after, run_length) & {(row, col), other}:
                found.append(((row, col), other))
    return found


def grid_of(board: bytes, cols: int) -> list[list[int]]:
    return [list(board[start : start + cols]) for start in range(0, len(board), cols)]


def test_text_and_numbers() -> None:
    tiny = make_game("swap", "tiny")
    first = "Red circle | Red square | Green circle | Green square"
    text = "\n".join((first, "Empty | Empty | Empty | Red circle", first, first))
    state = tiny.from_text(text)
    assert state == SwapState(bytes([1, 2, 3, 4, 0, 0, 0, 1, 1, 2, 3, 4, 1, 2, 3, 4]), 0, new_stream(0))
    assert tiny.describe(state) == text
    assert tiny.from_text(text.replace(" | ", "|").replace("Empty", "-")) == state
    assert tiny.key(SwapState(state.board, 7, 8)) == blake2b(text.encode(), digest_size=16).digest()


SINGLE_SWAPS = {
    "a row of three": ("GBYM BRGY RMRG YGBM", ((1, 1), (2, 1)), 3, "...M GBYY BMGG YGBM"),
    "a column of three": ("GRBY MRGB RMYG YGBM", ((2, 1), (2, 0)), 3, "G.BY M.GB M.YG YGBM"),
    "a row of four": (".... .... RRGR GYRB", ((2, 2), (3, 2)), 4, ".... .... .... GYGB"),
    "a row of five": ("BGRMY RRGRR YMBGB GBYMG", ((0, 2), (1, 2)), 5, "..... BGGMY YMBGB GBYMG"),
    "an L": ("RBYG RGBY MRRB RYGM", ((2, 0), (3, 0)), 5, "...G .BYY .GBB MYGM"),
    "a T": ("BRYG MRBY RGRM GRBY", ((2, 1), (3, 1)), 5, "...G B.YY M.BM GGBY"),
    "two rows of three": ("RRBY BBRG YMGM GYMB", ((0, 2), (1, 2)), 6, "...Y ...G YMGM GYMB"),
}


@pytest.mark.parametrize(("before", "action", "removed", "after"), SINGLE_SWAPS.values(), ids=SINGLE_SWAPS)
def test_a_swap_removes_its_lines_and_tiles_fall(before: str, action: Any, removed: int, after: str) -> None:
    game = letters_game(before)
    for pair in (action, action[::-1]):
        step = game.step(read(game, before), pair)
        assert step.refused is None
        assert step.info == {"cascades": 0, "removed": removed, "reshuffled": False}
        assert step.reward == removed and isinstance(step.reward, float)
        assert picture_of(game, step.state) == after
        assert step.state.num_moves == 1


def test_two_cascades_by_hand() -> None:
    # The R of row 3 goes down: R R R vanish. What falls on (4, 1) and (4, 2) is G G, beside the G of (4, 3): they
    # vanish. Then B B falls beside the B that stands on (4, 0).
    before = "YMYC MYCM YBBY BGRM RRGG"
    game = letters_game(before)
    step = game.step(read(game, before), ((3, 2), (4, 2)))
    assert picture_of(game, step.state) == ".... ...C Y..M MMYY YYCM"
    assert step.info == {"cascades": 2, "removed": 9, "reshuffled": False}


def test_lines_that_a_text_brings_go_with_the_first_legal_swap_and_tiles_in_the_air_fall() -> None:
    before = "C... .... BYBY YBYB MMMR RRGY"
    game = letters_game(before)
    state = read(game, before)
    assert game.step(state, ((4, 2), (4, 3))).refused == "swapping (4, 2) and (4, 3) lines up no 3 equal tiles"
    step = game.step(state, ((5, 2), (5, 3)))
    assert step.refused is not None  # R R Y G
    # Swapping (2, 1) and (3, 1) makes B B B and Y Y Y; the M M M below them vanish as well.
    step = game.step(state, ((2, 1), (3, 1)))
    assert step.info["removed"] == 9
    assert picture_of(game, step.state) == ".... .... ...Y ...B C..R RRGY"


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (((0, 0), (0, 0)), "the two cells must differ, got (0, 0) twice"),
        (((1, 0), (2, 1)), "the two cells must share an edge, got (1, 0) and (2, 1)"),
        (((2, 3), (3, 0)), "the two cells must share an edge, got (2, 3) and (3, 0)"),
        (((2, 0), (1, 0)), "cell (1, 0) is empty"),
        (((0, 0), (0, 1)), "cell (0, 0) is empty"),
        (((2, 0), (2, 1)), "the two tiles must differ, got Red circle twice"),
        (((2, 1), (2, 2)), "swapping (2, 1) and (2, 2) lines up no 3 equal tiles"),
        (((3, 0), (4, 0)), "cell (4, 0) is outside rows 0..3, cols 0..3"),
        (((0, -1), (0, 0)), "cell (0, -1) is outside rows 0..3, cols 0..3"),
    ],
)
def test_an_illegal_move_is_refused_with_its_reason(action: Any, reason: str) -> None:
    board = ".... .... RRGR GYRB"
    game = letters_game(board)
    state = read(game, board)
    step = game.step(state, action)
    assert step.refused == reason
    assert step.state is state and step.reward == 0.0 and not step.terminated
    assert game.explain(state, ((2, 1), (2, 2))) == (
        " Red circle (2, 1) Green circle (2, 2): swapping (2, 1) and (2, 2) lines up no 3 equal tiles"
    )


def test_teachers_take_the_most_tiles_in_sight() -> None:
    board = ".... .... RRGR GYRB"
    game = letters_game(board)
    state = read(game, board)
    # The R of (2, 3) makes three, the one of (3, 2) four.
    assert game.legal_actions(state) == [((2, 2), (2, 3)), ((2, 2), (3, 2))]
    assert game.solve(state) == ((2, 2), (3, 2))
    for seed in range(5):
        assert game.teachers["greedy"](state, np.random.default_rng(seed)) == ((2, 2), (3, 2))
    assert game.explain(state, ((2, 2), (3, 2))) == (
        " Green circle (2, 2) Red circle (3, 2) lines up Red circle (2, 0) (2, 1) (2, 2) (2, 3)"
    )
    four = letters_game(board, run_length=4)
    assert four.legal_actions(read(four, board)) == [((2, 2), (3, 2))]


def test_a_tie_goes_to_the_swap_that_leaves_more() -> None:
    # Both swaps remove three. B B B leaves Y over G G . G: nothing. G G G lets B, Y and B fall: B over B Y B.
    board = ".... ..B. .BY. GGBG"
    game = letters_game(board)
    state = read(game, board)
    assert game.legal_actions(state) == [((2, 1), (2, 2)), ((3, 2), (3, 3))]
    assert game.solve(state) == ((3, 2), (3, 3))
    greedy = {game.teachers["greedy"](state, np.random.default_rng(seed)) for seed in range(20)}
    assert greedy == set(game.legal_actions(state))
    stuck = game.step(state, ((2, 1), (2, 2)))
    assert stuck.terminated and stuck.info["reshuffled"] is False
    assert picture_of(game, stuck.state) == ".... .... .Y.. GG.G"
    assert game.solve(stuck.state) is None and game.legal_actions(stuck.state) == []
    with pytest.raises(ValueError, match="no legal action is left"):
        game.teachers["greedy"](stuck.state, np.random.default_rng(0))
    assert not game.step(state, ((3, 2), (3, 3))).terminated


def test_explain_names_both_lines_of_a_swap() -> None:
    board = "RRBY BBRG YMGM GYMB"
    game = letters_game(board)
    assert game.explain(read(game, board), ((0, 2), (1, 2))) == (
        " Blue circle (0, 2) Red circle (1, 2) lines up"
        " Red circle (0, 0) (0, 1) (0, 2) and Blue circle (1, 0) (1, 1) (1, 2)"
    )


def test_teachers_do_not_see_the_tiles_to_come() -> None:
    game = make_game("swap", "small")
    for seed in range(20):
        state = game.mid_game(seed)
        futures = [SwapState(state.board, 0, new_stream(number)) for number in range(8)]
        assert len({game.step(future, game.solve(future)).state.board for future in futures}) > 1
        for name in ("solver", "greedy"):
            assert len({game.teachers[name](future, np.random.default_rng(0)) for future in futures}) == 1


sizes = st.tuples(st.integers(3, 6), st.integers(3, 6))


@settings(max_examples=100, deadline=None)
@given(size=sizes, run_length=st.sampled_from([3, 4]), data=st.data())
def test_runs_and_swaps_are_those_found_by_trying(size: tuple[int, int], run_length: int, data: st.DataObject) -> None:
    rows, cols = size
    tiles = st.sampled_from([0, 1, 1, 2, 2, 3, 64])
    board = bytes(data.draw(st.lists(tiles, min_size=rows * cols, max_size=rows * cols)))
    matching = Matching(rows, cols, run_length, num_kinds=64)
    grid = grid_of(board, cols)
    runs = {divmod(cell, cols) for cell in range(rows * cols) if matching.runs(board) >> (8 * cell + 7) & 1}
    assert runs == cells_in_runs(grid, run_length)
    pairs = [(divmod(first, cols), divmod(second, cols)) for first, second in matching.swaps(board)]
    assert pairs == legal_pairs(grid, run_length)
    assert matching.any_swap(board) == bool(pairs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), knobs=st.sampled_from([{}, {"run_length": 4}, {"rows": 3, "cols": 7, "shapes": 3}]))
def test_with_refill_the_board_stays_full_without_runs_and_playable(seed: int, knobs: dict[str, int]) -> None:
    game = make_game("swap", "tiny", **knobs)
    state, rng = game.init(seed), np.random.default_rng(seed)
    for _ in range(8):
        grid = grid_of(state.board, game.level.cols)
        assert all(map(all, grid))
        assert cells_in_runs(grid, game.level.run_length) == set()
        assert game.legal_actions(state) == legal_pairs(grid, game.level.run_length) != []
        step = game.step(state, game.teachers["legal_random"](state, rng))
        assert step.reward >= game.level.run_length and not step.terminated
        state = step.state


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_without_refill_what_was_removed_is_missing(seed: int) -> None:
    game = make_game("swap", "small", refill=False)
    start = state = game.init(seed)
    rng, total, terminated = np.random.default_rng(seed), 0.0, False
    while not terminated:
        before = Counter(state.board)
        state, reward, terminated, info = game.step(state, game.teachers["legal_random"](state, rng))
        assert Counter(state.board)[0] - before[0] == reward == info["removed"]
        assert all(count <= before[tile] for tile, count in Counter(state.board).items() if tile)
        columns = [bytes(state.board[col :: game.level.cols]) for col in range(game.level.cols)]
        assert all(0 not in column.lstrip(b"\0") for column in columns)
        total += reward
    assert legal_pairs(grid_of(state.board, game.level.cols), 3) == []
    assert total == len(start.board) - len(state.board.replace(b"\0", b""))


def test_new_tiles_come_from_the_stream_in_reading_order_and_are_uniform() -> None:
    # R R R in row 2 and what stood above leave gaps in row 0; no two tiles below a gap are equal.
    before = "GBY BRG RMR YGB"
    board = read(letters_game(before), before).board
    matching = Matching(rows=4, cols=3, run_length=3, num_kinds=6)
    counts: Counter[int] = Counter()
    for seed in range(400):
        settled = matching.settle(swapped(board, 4, 7), new_stream(seed), refill=True)
        tiles, stream = [], new_stream(seed)
        for _ in range(3):
            kind, stream = draw_below(stream, 6)
            tiles.append(1 + kind)
        if len(set(tiles)) > 1:  # three equal ones vanish again
            assert list(settled.board[:3]) == tiles
            assert settled[1:] == (stream, 1, 3)
            counts.update(tiles)
    expected = sum(counts.values()) / 6
    assert expected > 180
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 25  # 5 degrees: p below 0.0002


def test_a_stuck_board_keeps_its_tiles_in_a_new_order_where_that_can_help() -> None:
    game = make_game("swap", "tiny", rows=3, cols=3, colors=5, shapes=2)
    matching = Matching(3, 3, 3, num_kinds=10)
    rng, state, seen = np.random.default_rng(0), game.init(0), Counter[tuple[bool, bool]]()
    for _ in range(80):
        action = game.teachers["legal_random"](state, rng)
        first, second = (3 * row + col for row, col in action)
        settled = matching.settle(swapped(state.board, first, second), state.stream, refill=True)
        state, _, _, info = game.step(state, action)
        assert info["reshuffled"] is (legal_pairs(grid_of(settled.board, 3), 3) == [])
        if info["reshuffled"]:
            # With two tiles of a kind at most, no order has a legal swap: the tiles are new.
            kept = Counter(state.board) == Counter(settled.board)
            assert kept is (max(Counter(settled.board).values()) >= 3)
            assert state.stream != settled.stream
        else:
            kept = state.board == settled.board
            assert kept and state.stream == settled.stream
        seen[info["reshuffled"], kept] += 1
    assert len(seen) == 3 and min(seen.values()) > 5


def test_starts_hold_every_kind_equally_often() -> None:
    game = make_game("swap", "paper")
    counts = sum((Counter(game.init(seed).board) for seed in range(100)), Counter())
    assert set(counts) == set(range(1, 13))
    assert all(abs(count - 6400 / 12) < 100 for count in counts.values())  # 4.5 standard deviations


def test_mid_games_are_spread_evenly() -> None:
    game = make_game("swap", "tiny")
    counts = Counter(game.mid_game(seed).num_moves for seed in range(600))
    assert set(counts) == set(range(MAX_WARM_UP + 1))
    assert all(abs(count - 100) < 45 for count in counts.values())


def test_mid_games_without_refill_reach_the_last_move() -> None:
    game = make_game("swap", "small", refill=False)
    states = [game.mid_game(seed) for seed in range(150)]
    assert min(state.num_moves for state in states) == 0
    last = [state for state in states if game.step(state, game.legal_actions(state)[0]).terminated]
    assert 5 < len(last) < 100


def test_neighbours_draws_every_pair_of_cells_that_share_an_edge() -> None:
    game = make_game("swap", "tiny", cols=3)
    rng = np.random.default_rng(0)
    counts = Counter(game.teachers["neighbours"](game.init(0), rng) for _ in range(1700))
    # 4 x 2 to the right and 3 x 3 down: 100 draws each.
    assert len(counts) == 17
    assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 and a < b for a, b in counts)
    assert all(50 < count < 150 for count in counts.values())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rows": 2}, "rows must be in 3..16, got 2"),
        ({"run_length": 5}, "run_length must be one of 3, 4, got 5"),
        ({"colors": 2, "shapes": 1}, "colors * shapes must be at least 3, got 2 * 1"),
        # 8 * 6 places for a run of three each way, 96 / 3**2 runs.
        (
            {"colors": 1, "shapes": 3},
            "colors * shapes must give a random board 0.03..6.0 runs on average, "
            "got 1 * 3 with 10.67 runs on 8 x 8 cells",
        ),
        # No place for a run of four.
        (
            {"rows": 3, "cols": 3, "run_length": 4},
            "colors * shapes must give a random board 0.03..6.0 runs on average, "
            "got 4 * 3 with 0.00 runs on 3 x 3 cells",
        ),
    ],
)
def test_impossible_levels_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        SwapLevel(**knobs)
    assert str(error.value) == message


@pytest.mark.parametrize("knobs", [{"colors": 2, "shapes": 2}, {"rows": 3, "cols": 3, "colors": 7, "shapes": 2}])
def test_the_outermost_levels_can_be_played(knobs: dict[str, int]) -> None:
    game = make_game("swap", "paper", tile_px=16, **knobs)
    rng = np.random.default_rng(0)
    state = game.init(0)
    for _ in range(30):
        state = game.step(state, game.teachers["legal_random"](state, rng)).state
    assert state.num_moves == 30


def test_named_levels_have_the_stated_pictures_and_rules() -> None:
    games = {level: make_game("swap", level) for level in ("tiny", "small", "paper", "noisy", "large", "hard")}
    # 4 * 16, 6 * 84, 8 * 84, 8 * 84, 12 * 56, 12 * 56
    assert [game.image_shape[0] for game in games.values()] == [64, 504, 672, 672, 672, 672]
    assert "new random tiles fill the board from the top" in games["paper"].prompt
    assert "the gaps at the top stay empty" in games["hard"].prompt
