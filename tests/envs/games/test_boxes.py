from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games import _boxes
from vlmgym_envs.games._boxes import Room, cells_of, deal, fewest_pushes, lost_cells

UP, RIGHT, DOWN, LEFT = range(4)
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))


def cells(drawing: tuple[str, ...], letters: str) -> int:
    """The cells of a drawing that hold one of the letters."""
    places = [(row, col) for row, line in enumerate(drawing) for col, letter in enumerate(line) if letter in letters]
    return sum(cell(row, col, len(drawing[0])) for row, col in places)


def cell(row: int, col: int, cols: int) -> int:
    return 1 << row * (cols + 1) + col


def position(*drawing: str) -> tuple[Room, int, int]:
    """Room, boxes and player: "." floor, "#" wall, "g" goal, "b" box, "p" player, "B" and "P" those on a goal."""
    room = Room(cells(drawing, ".gbpBP"), cells(drawing, "gBP"), len(drawing[0]))
    return room, cells(drawing, "bB"), cells(drawing, "pP")


def plan_of(*drawing: str) -> list[tuple[str, int, int]] | None:
    """The plan as (direction, row and column of the box before the push)."""
    room, boxes, player = position(*drawing)
    plan = fewest_pushes(room, boxes, room.reach(player, boxes))
    if plan is None:
        return None
    return [("urdl"[way], *divmod(box.bit_length() - 1, room.cols + 1)) for way, box in plan]


def test_the_player_walks_around_boxes_and_walls_but_not_over_an_edge() -> None:
    room, boxes, player = position("p.#.", "##b.", "....")
    assert room.reach(player, boxes) == cells(("xx..", "....", "...."), "x")
    assert room.reach(player, 0) == cells(("xx..", "....", "...."), "x")
    room, boxes, player = position("..#.", "p#..", "#...")
    assert room.reach(player, boxes) == cells(("xx..", "x...", "...."), "x")


boards = st.integers(1, 5).flatmap(
    lambda cols: st.lists(st.text("..#b", min_size=cols, max_size=cols), min_size=1, max_size=5)
)


@settings(max_examples=60, deadline=None)
@given(boards, st.integers(0, 24))
def test_reach_agrees_with_a_search_over_rows_and_columns(lines: list[str], place: int) -> None:
    rows, cols = len(lines), len(lines[0])
    start = divmod(place % (rows * cols), cols)
    lines[start[0]] = lines[start[0]][: start[1]] + "p" + lines[start[0]][start[1] + 1 :]
    found, queue = {start}, deque([start])
    while queue:
        row, col = queue.popleft()
        for near in ((row + down, col + right) for down, right in STEPS):
            inside = 0 <= near[0] < rows and 0 <= near[1] < cols
            if inside and near not in found and lines[near[0]][near[1]] == ".":
                found.add(near)
                queue.append(near)
    room, boxes, player = position(*lines)
    assert room.reach(player, boxes) == sum(cell(*place, cols) for place in found)


def test_pushes_need_room_before_and_behind_the_box() -> None:
    # A wall above the box keeps it from going up and the player from getting above it; the other is in a corner.
    room, boxes, player = position("..#..", "p.b..", ".....", "b....")
    found = {(way, box) for way, box in room.pushes(boxes, room.reach(player, boxes))}
    assert found == {(RIGHT, cell(1, 2, 5)), (LEFT, cell(1, 2, 5))}
    room, boxes, player = position(".....", ".....", "p....", "b....", ".....")
    found = {(way, box) for way, box in room.pushes(boxes, room.reach(player, boxes))}
    assert found == {(DOWN, cell(3, 0, 5)), (UP, cell(3, 0, 5))}


@settings(max_examples=60, deadline=None)
@given(boards, st.integers(0, 24))
def test_a_pull_undoes_a_push_and_nothing_else_does(lines: list[str], place: int) -> None:
    room, boxes, _ = position(*lines)
    places = list(cells_of(room.floor & ~boxes))
    if not places:
        return
    reach = room.reach(places[place % len(places)], boxes)
    for way, box in room.pushes(boxes, reach):
        after = room.moved(boxes, (way, box))
        assert after.bit_count() == boxes.bit_count() and not after & ~room.floor and after != boxes
        assert (way, box) in set(room.pulls(after, room.reach(box, after)))
    for way, box in room.pulls(boxes, reach):
        before = room.moved(boxes, (way, box))
        behind = box << -room.shifts[way] if room.shifts[way] < 0 else box >> room.shifts[way]
        assert behind & room.floor & ~before
        assert (way, box) in set(room.pushes(before, room.reach(behind, before)))
        assert room.moved(before, (way, box)) == boxes


def test_a_corridor_takes_as_many_pushes_as_it_is_long() -> None:
    assert plan_of("p.b..g") == [("r", 0, 2), ("r", 0, 3), ("r", 0, 4)]
    assert plan_of("g.b..p") == [("l", 0, 2), ("l", 0, 1)]
    assert plan_of("g.bp.B") == [("l", 0, 2), ("l", 0, 1)]
    assert plan_of("..B.p") == []


def test_around_a_wall_takes_four_pushes() -> None:
    # Below the wall there is no way: along the bottom nobody could push the box up again.
    plan = plan_of(".....", ".....", "pb#g.", ".....", "#####")
    assert plan == [("u", 2, 1), ("r", 1, 1), ("r", 1, 2), ("d", 1, 3)]


def test_the_box_that_is_ahead_gets_the_goal_that_is_farther() -> None:
    # One box goes 2 cells and the other 3. Both may be nearest to the same goal.
    plan = plan_of("pb.bgg", "......")
    assert plan is not None and len(plan) == 5
    assert {way for way, _, _ in plan} == {"r"} and sorted(col for _, _, col in plan) == [1, 2, 3, 3, 4]


def test_no_plan_for_what_cannot_be_solved() -> None:
    # In a corner; more boxes than goals; a goal behind walls; the player on the wrong side.
    assert plan_of("b..", ".p.", "..g") is None
    assert plan_of("......", ".b.bg.", "...p..") is None
    assert plan_of("g#.", "#bp", "...") is None
    assert plan_of("..bpg") is None


def test_the_search_ends_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = ("p.....", ".b....", "....g.", "......")
    monkeypatch.setattr(_boxes, "MAX_EXPANDED", 2)
    assert plan_of(*drawing) is None
    fewest_pushes.cache_clear()
    monkeypatch.setattr(_boxes, "MAX_EXPANDED", 100)
    plan = plan_of(*drawing)
    assert plan is not None and len(plan) == 4
    fewest_pushes.cache_clear()


def test_the_search_looks_at_few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_boxes, "MAX_EXPANDED", 60)
    fewest_pushes.cache_clear()
    for seed in range(20):
        room, boxes, player = deal(8, 8, 9, 3, 30, np.random.default_rng(seed))
        assert fewest_pushes(room, boxes, room.reach(player, boxes)) is not None
    fewest_pushes.cache_clear()


def by_layers(room: Room, boxes: int, reach: int) -> int | None:
    """The fewest pushes, by trying all."""
    layer, seen, num_pushes = {(boxes, reach)}, {(boxes, reach)}, 0
    while layer:
        if any(not boxes & ~room.goals for boxes, _ in layer):
            return num_pushes
        after = [(room.moved(boxes, push), push[1]) for boxes, reach in layer for push in room.pushes(boxes, reach)]
        layer = {(boxes, room.reach(player, boxes)) for boxes, player in after} - seen
        seen |= layer
        num_pushes += 1
    return None


@pytest.mark.parametrize("max_matched", [_boxes.MAX_MATCHED, 0])
def test_no_plan_is_shorter(monkeypatch: pytest.MonkeyPatch, max_matched: int) -> None:
    monkeypatch.setattr(_boxes, "MAX_MATCHED", max_matched)
    fewest_pushes.cache_clear()
    lengths = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        room, boxes, player = deal(4, 5, 3, 2, 8, rng)
        # A player somewhere else may make it unsolvable.
        others = list(cells_of(room.floor & ~boxes))
        for place in (player, others[int(rng.integers(len(others)))]):
            reach = room.reach(place, boxes)
            plan = fewest_pushes(room, boxes, reach)
            assert (None if plan is None else len(plan)) == by_layers(room, boxes, reach)
            lengths.append(plan and len(plan))
    assert len(set(lengths)) > 3


def test_lost_are_the_cells_that_a_box_cannot_leave_for_a_goal() -> None:
    # Along an edge a box stays there, in a corner it stays for good; no goal is on three of the edges.
    room, _, _ = position(".g..", "....", "....", "p...")
    assert lost_cells(room) == cells(("x..x", "x..x", "x..x", "xxxx"), "x")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 8), st.integers(5, 8), st.integers(1, 3), st.integers(1, 6))
def test_deals_can_be_solved_by_their_pulls_undone(
    seed: int, rows: int, cols: int, num_boxes: int, num_pulls: int
) -> None:
    room, boxes, player = deal(rows, cols, rows * cols // 8, num_boxes, num_pulls, np.random.default_rng(seed))
    assert room.goals.bit_count() == boxes.bit_count() == num_boxes
    assert boxes & ~room.floor == 0 == player & (boxes | ~room.floor) and boxes != room.goals
    assert room.reach(player, 0) == room.floor
    plan = fewest_pushes(room, boxes, room.reach(player, boxes))
    # Each push changes row + col of one box by one, so plans are all even or all odd.
    assert plan is not None and len(plan) <= num_pulls and (num_pulls - len(plan)) % 2 == 0


def test_a_deal_that_is_always_stuck_is_an_error() -> None:
    # A lone box has at most nine places.
    with pytest.raises(ValueError, match="1000 deals of 3 x 3 cells, 0 walls and 1 boxes were stuck before 20 pulls"):
        deal(3, 3, 0, 1, 20, np.random.default_rng(0))
