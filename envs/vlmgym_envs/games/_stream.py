"""Decides how a state carries its own randomness: one 64-bit number, so that a fork repeats the same draws."""

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def new_stream(seed: int) -> int:
    """The stream of a seed; close seeds give unrelated streams."""
    return _mix((seed * _STEP + 1) & _MASK)


def draw_below(stream: int, bound: int) -> tuple[int, int]:
    """A number uniform on 0..bound-1, and the stream after it. SplitMix64 (Steele, Lea and Flood 2014).

    Uniform up to bound / 2**64.
    """
    stream = (stream + _STEP) & _MASK
    return _mix(stream) * bound >> 64, stream


def _mix(number: int) -> int:
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _MASK
    return number ^ (number >> 31)
