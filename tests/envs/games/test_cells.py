import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgym_envs import InvalidAnswer
from vlmgym_envs.games._cells import Grid

GRID = Grid(12, 12)

numbers = st.integers(0, 11)
brackets = st.sampled_from(["()", "[]", "{}", "  "])
spaces = st.sampled_from(["", " ", "\n", "   "])


@st.composite
def spelled(draw: st.DrawFn, values: tuple[int, int, int, int]) -> str:
    """One of the accepted spellings of four numbers."""
    pairs = []
    for first, second in (values[:2], values[2:]):
        left, right = draw(brackets)
        comma = draw(spaces) + "," + draw(spaces) if draw(st.booleans()) else " "
        pairs.append(f"{left}{draw(spaces)}{first}{comma}{second}{draw(spaces)}{right}")
    left, right = draw(brackets)
    return f"{draw(spaces)}{left}{pairs[0]}{draw(spaces)}{draw(st.sampled_from([',', ' ', ';']))}{pairs[1]}{right}"


@given(st.data(), st.tuples(numbers, numbers, numbers, numbers))
def test_every_spelling_of_a_pair_is_that_pair(data: st.DataObject, values: tuple[int, int, int, int]) -> None:
    pair = (values[:2], values[2:])
    assert GRID.parse(GRID.format(pair)) == pair
    text = data.draw(spelled(values))
    assert GRID.parse(text) == pair, text


@given(st.text("0123456789 ()[]{},;.-+ae\n", max_size=24))
def test_an_accepted_text_holds_exactly_the_numbers_of_the_action(text: str) -> None:
    try:
        (row_1, col_1), (row_2, col_2) = GRID.parse(text)
    except InvalidAnswer:
        return
    assert [int(number) for number in re.findall(r"[0-9]+", text)] == [row_1, col_1, row_2, col_2]
    assert not re.search(r"[^0-9 ()\[\]{},;\n]", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected four numbers, row1, col1, row2, col2, got 0"),
        ("12", "expected four numbers, row1, col1, row2, col2, got 1"),
        ("(1, 2) (3)", "expected four numbers, row1, col1, row2, col2, got 3"),
        ("(1, 2) (3, 4) (5, 6)", "expected four numbers, row1, col1, row2, col2, got 6"),
        ("(-1, 2) (3, 4)", "expected only whole numbers, got '-1'"),
        ("(1.5, 2) (3, 4)", "expected only whole numbers, got '1.5'"),
        ("(+1, 2) (3, 4)", "expected only whole numbers, got '+1'"),
        ("(1, 2) - (3, 4)", "expected only whole numbers, got '-'"),
        ("(1, 2) and (3, 4)", "expected only whole numbers, got 'and'"),
        ("(\u0661, 2) (3, 4)", "expected only whole numbers, got '\u0661'"),
        ("(0) (1) (2) (3)", "expected (row1, col1) (row2, col2), got '(0) (1) (2) (3)'"),
        ("(0, (1, 2), 3)", "expected (row1, col1) (row2, col2), got '(0, (1, 2), 3)'"),
        ("(0, 1) (2, 3", "expected (row1, col1) (row2, col2), got '(0, 1) (2, 3'"),
        ("(0, 1] [2, 3)", "expected (row1, col1) (row2, col2), got '(0, 1] [2, 3)'"),
        ("0,,1,2,3", "expected (row1, col1) (row2, col2), got '0,,1,2,3'"),
        ("(12, 0) (0, 0)", "row must be in 0..11, got 12"),
        ("(0, 0) (0, 99)", "col must be in 0..11, got 99"),
        ("(0, 0) (0, " + "9" * 5000 + ")", "col must be in 0..11, got 99999999999999999999"),
    ],
)
def test_other_texts_are_refused_with_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidAnswer) as error:
        GRID.parse(text)
    assert str(error.value) == reason


def test_rows_and_columns_have_their_own_range() -> None:
    grid = Grid(rows=2, cols=5)
    assert grid.parse("(1, 4) (0, 0)") == ((1, 4), (0, 0))
    with pytest.raises(InvalidAnswer, match=r"row must be in 0\.\.1, got 4"):
        grid.parse("(4, 1) (0, 0)")
