from dataclasses import FrozenInstanceError, dataclass

import pytest

from vlmgym_envs.level import Level, choice, knob


@dataclass(frozen=True, slots=True)
class Sized(Level):
    rows: int = knob(4, 2, 16)
    cols: int = knob(4, 2, 16)
    border_px: int = knob(0, 0, 9)
    flat: bool = choice(False, (False, True))

    def check(self) -> None:
        if self.flat and self.rows > 2:
            raise ValueError(f"rows must be 2 where flat is set, got {self.rows}")


@pytest.mark.parametrize("rows", [2, 16])
def test_both_ends_of_a_range_are_allowed(rows: int) -> None:
    assert Sized(rows=rows).rows == rows


@pytest.mark.parametrize("rows", [1, 17, 40, -3, 4.0, "4", True, None])
def test_other_values_are_refused(rows: object) -> None:
    with pytest.raises(ValueError) as error:
        Sized(rows=rows)  # type: ignore[arg-type]
    assert str(error.value) == f"rows must be in 2..16, got {rows!r}"


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"border_px must be in 0\.\.9, got True"):
        Sized(border_px=True)


def test_an_option_is_not_confused_with_an_equal_value_of_another_type() -> None:
    with pytest.raises(ValueError, match="flat must be one of False, True, got 1"):
        Sized(flat=1)  # type: ignore[arg-type]


def test_override_changes_a_copy_and_checks_it() -> None:
    level = Sized()
    assert level.override({"rows": 2, "flat": True}) == Sized(rows=2, flat=True)
    assert level == Sized()
    with pytest.raises(ValueError, match="rows must be 2 where flat is set, got 4"):
        level.override({"flat": True})


def test_an_unknown_knob_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError) as error:
        Sized().override({"row": 3})
    assert str(error.value) == "unknown level knob 'row', did you mean 'rows'? Known: rows, cols, border_px, flat"


def test_a_level_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Sized().rows = 3  # type: ignore[misc]
