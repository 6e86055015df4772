from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym.yaml12 import parse_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("3E4", 3e4),
        (".5", 0.5),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("off", "off"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2025-05-19", "2025-05-19"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1e-3, {a: b}]", [1e-3, {"a": "b"}]),
    ],
)
def test_plain_words_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2, column 1: 'a' stands here twice"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("!!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_bad_yaml_is_a_value_error_that_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="column") as error:
        parse_yaml(text)
    assert message in str(error.value)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(deadline=None, max_examples=50)
@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc-:1"), inner)))
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "value.yaml"
    write_yaml(value, path, comment="a value")
    assert parse_yaml(path.read_text(encoding="utf-8")) == value
