import pytest

from vlmgym_envs.core import Step


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"refused": "no"}, None),
        ({"cleared": False}, False),
        ({"solved": True}, True),
        ({"reached": True, "other": 1}, True),
    ],
)
def test_a_game_says_whether_it_is_won(info: dict[str, object], expected: bool | None) -> None:
    assert Step(None, 0.0, False, info).won is expected
