from hashlib import blake2b
from typing import Any

import pytest

from vlmgym_envs import Game, splits
from vlmgym_envs.splits import draw_start, in_held_out

AnyGame = Game[Any, Any, Any]

KEYS = [blake2b(bytes([number // 256, number % 256]), digest_size=16).digest() for number in range(10_000)]


def test_the_first_half_of_the_key_is_the_number_that_is_compared() -> None:
    half = b"\x80" + bytes(15)
    assert not in_held_out(half, 0.5)
    assert in_held_out(half, 0.50001)
    assert in_held_out(bytes(16), 1e-9)
    assert not in_held_out(bytes(16), 0.0)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.1, 0.5])
def test_the_fraction_is_kept(fraction: float) -> None:
    held_out = sum(in_held_out(key, fraction) for key in KEYS)
    deviation = (10_000 * fraction * (1 - fraction)) ** 0.5
    assert abs(held_out - 10_000 * fraction) <= 4 * deviation


def test_a_smaller_split_lies_inside_a_larger_one() -> None:
    assert all(in_held_out(key, 0.2) for key in KEYS if in_held_out(key, 0.1))


@pytest.mark.parametrize("start", ["fresh", "mid_game"])
def test_train_and_held_out_share_no_state(tiny: AnyGame, start: Any) -> None:
    train = {tiny.key(draw_start(tiny, seed, start, "train", 0.3)) for seed in range(150)}
    held_out = {tiny.key(draw_start(tiny, seed, start, "held_out", 0.3)) for seed in range(150)}
    assert not train & held_out
    assert all(in_held_out(key, 0.3) for key in held_out)
    assert not any(in_held_out(key, 0.3) for key in train)


def test_all_holds_both_splits(tiny: AnyGame) -> None:
    drawn = [in_held_out(tiny.key(draw_start(tiny, seed, "mid_game", "all", 0.5)), 0.5) for seed in range(100)]
    assert 30 < sum(drawn) < 70


def test_the_seed_decides_the_start(tiny: AnyGame) -> None:
    assert draw_start(tiny, 7) == draw_start(tiny, 7)
    assert len({draw_start(tiny, seed) for seed in range(50)}) > 40
    assert all(draw_start(tiny, seed, "fresh").num_moves == 0 for seed in range(10))
    assert any(draw_start(tiny, seed, "mid_game").num_moves > 0 for seed in range(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("midgame", "train", 0.1), "unknown start 'midgame', did you mean 'mid_game'?"),
        (("fresh", "test", 0.1), "unknown split 'test'"),
        (("fresh", "train", 1.0), "held_out must be in 0..1 and below 1, got 1.0"),
        (("fresh", "train", -0.1), "held_out must be in 0..1 and below 1, got -0.1"),
        (("fresh", "held_out", 0.0), "held_out must be above 0 for the split 'held_out', got 0.0"),
    ],
)
def test_bad_arguments_are_refused(tiny: AnyGame, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        draw_start(tiny, 0, *arguments)
    assert message in str(error.value)


def test_an_empty_split_is_an_error_and_no_endless_search(tiny: AnyGame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MAX_TRIES", 5)
    with pytest.raises(ValueError, match="no held_out state in 5 mid_game starts of shisen_sho with held_out 1e-09"):
        draw_start(tiny, 0, "mid_game", "held_out", 1e-9)
