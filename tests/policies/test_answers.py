import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgym_policies.answers import Response, parse_response, write_response

TEXT = st.text(st.characters(blacklist_characters="<>"))


@given(TEXT, TEXT, TEXT)
def test_reads_back_what_was_written(perception, think, answer):
    assert parse_response(write_response(perception, think, answer)) == Response(perception, think, answer)


@given(st.text())
def test_never_raises(text):
    parse_response(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Response(None, None, None)),
        ("<answer>1</answer>", Response(None, None, "1")),
        ("<answer>1</answer> no, <answer>2</answer>", Response(None, None, "2")),
        ("<answer>1", Response(None, None, None)),
        ("<think>a\nb</think>", Response(None, "a\nb", None)),
        ("<ANSWER>1</ANSWER>", Response(None, None, None)),
    ],
)
def test_what_is_missing_is_none(text, expected):
    assert parse_response(text) == expected
    assert not parse_response(text).well_formed
