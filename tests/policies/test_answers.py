import re

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


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "a", "<", "b\n", "</", "answer>"]), max_size=12).map("".join))
def test_of_several_pairs_the_last_one_counts(text):
    """Held to the grammar as a regular expression: each pair from its first opening tag to the next closing one."""
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert parse_response(text).answer == (found[-1] if found else None)


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
