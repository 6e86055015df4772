from vlmgym_envs.games._stream import draw_below, new_stream


def test_the_reference_sequence() -> None:
    """The first outputs of SplitMix64 from state 1234567, as published with the reference implementation."""
    stream, found = 1234567, []
    for _ in range(3):
        number, stream = draw_below(stream, 2**64)
        found.append(number)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_uniform_and_repeat() -> None:
    counts, stream = [0] * 6, new_stream(3)
    assert draw_below(stream, 6) == draw_below(stream, 6)
    for _ in range(6000):
        number, stream = draw_below(stream, 6)
        counts[number] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 25  # chi-square, 5 degrees: p below 0.0002


def test_close_seeds_are_unrelated() -> None:
    firsts = [draw_below(new_stream(seed), 1000)[0] for seed in range(100)]
    assert len(set(firsts)) > 80
