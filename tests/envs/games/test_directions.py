import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgym_envs import InvalidAnswer, make_game
from vlmgym_envs.games._directions import DIRECTIONS, neighbours, parse_direction

NAMES = [(name, action) for action, word in enumerate(DIRECTIONS) for name in (word, str(action))]
WRAPPINGS = ["{}", "({})", "[ {} ]", "{{{}}}", '"{}"', "'{}'", "`{}`", "{}.", " {}\n", "\t[{}.]", '("{}".)']

TWO = ("left or up", "left 2", "2 2", "left left", "up/down", "1,2", "left, up", "(left) (up)", "up.down")
OTHER = (
    "12",
    "4",
    "-1",
    "1.5",
    "01",
    "+1",
    "1,",
    "2)",
    "(2",
    "[2)",
    "((2)",
    "",
    ".",
    "()",
    "''",
    "le ft",
    "l",
    "north",
)
OTHER += ("upright", "not left", "left!", "1e0", "\u0661", "\u00b2")


def test_the_number_of_a_direction_is_its_place_clockwise_from_up() -> None:
    assert [parse_direction(word) for word in ("up", "right", "down", "left")] == [0, 1, 2, 3]
    assert [parse_direction(digit) for digit in "0123"] == [0, 1, 2, 3]


@given(st.sampled_from(NAMES), st.lists(st.sampled_from(WRAPPINGS), max_size=4), st.booleans(), st.booleans())
def test_case_brackets_quotes_and_a_full_stop_do_not_matter(
    named: tuple[str, int], wrappings: list[str], upper: bool, title: bool
) -> None:
    text = named[0].title() if title else named[0]
    text = text.upper() if upper else text
    for wrapping in wrappings:
        text = wrapping.format(text)
    assert parse_direction(text) == named[1]


@pytest.mark.parametrize("text", [*TWO, *OTHER])
def test_anything_else_is_refused_with_what_was_said(text: str) -> None:
    with pytest.raises(InvalidAnswer) as error:
        parse_direction(f" {text}\n")
    assert str(error.value) == f"expected one direction, up, right, down, left or 0..3, got {text!r}"


def test_a_long_answer_is_quoted_in_part() -> None:
    with pytest.raises(InvalidAnswer, match=f"got {'x' * 40!r}$"):
        parse_direction("x" * 5000)
    assert parse_direction("(" * 500 + "2" + ")" * 500) == 2


@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.text(alphabet=" ,.;:/|-+()[]'\"\n", max_size=3))
def test_two_directions_are_never_taken_for_one(first: tuple[str, int], second: tuple[str, int], between: str) -> None:
    with pytest.raises(InvalidAnswer):
        parse_direction(first[0] + between + second[0])


letters = st.sampled_from(["up", "right", "down", "left", *"0123456789.-+,;:/|()[]{}'\"` \n", "or", "x"])


@given(st.lists(letters, max_size=6))
def test_only_a_lone_direction_is_read_from_scraps_of_answers(scraps: list[str]) -> None:
    names = dict(NAMES)
    solid = [scrap for scrap in scraps if scrap not in "()[]{}'\"`. \n"]
    try:
        action = parse_direction("".join(scraps))
    except InvalidAnswer:
        return
    assert len(solid) == 1 and action == names[solid[0]]


def test_neighbours_stop_at_the_edges() -> None:
    # 0 1 2
    # 3 4 5
    assert neighbours(2, 3) == (
        (None, 1, 3, None),
        (None, 2, 4, 0),
        (None, None, 5, 1),
        (0, 4, None, None),
        (1, 5, None, 3),
        (2, None, None, 4),
    )


def test_a_game_of_directions_writes_words_and_has_a_space_of_four() -> None:
    game = make_game("maze", "tiny")
    assert game.action_space.n == 4
    assert [game.from_space(np.int64(action)) for action in range(4)] == [0, 1, 2, 3]
    assert [game.format_answer(action) for action in range(4)] == ["up", "right", "down", "left"]
    rng = np.random.default_rng(0)
    assert {game.random_action(rng) for _ in range(100)} == {0, 1, 2, 3}
