"""Decides what the film of a run shows: the board, the answer given to it, what became of it, and the score."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlmgym.evals.log import RunLog, StepLog
from vlmgym.evals.protocol import points
from vlmgym_envs.core import Game
from vlmgym_policies.answers import parse_response

FRAMES_PER_S = 2
BOARD_PX = 480
"""The longer side of the board in the film."""
PANEL_PX = 400
MIN_HEIGHT_PX = 320
MARGIN_PX = 16
TEXT_PX = 18
LINE_PX = 24
LINE_CHARS = 40
MAX_LINES = 4

GOOD, BAD, TEXT = (20, 130, 50), (190, 30, 30), (20, 20, 20)

WON = {True: ["won"], False: ["not won"], None: []}

Line = tuple[str, tuple[int, int, int]]


def write_video(game: Game[Any, Any, Any], who: str, run: RunLog, path: Path) -> None:
    """One frame per step and one of the end, H.264 where PyAV has an encoder for it, else MPEG-4.

    who: the policy that plays.
    """
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(FRAMES_PER_S))
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames(game, who, run)):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    os.replace(partial, path)


def frames(game: Game[Any, Any, Any], who: str, run: RunLog) -> Iterator[NDArray[np.uint8]]:
    """Each uint8 [H, W, 3], H and W even: the board at the left, the words at the right."""
    states = run.states
    scores = [0.0, *accumulate(points(game.score, step.reward) for step in run.steps)]
    board, shown = Image.new("RGB", (1, 1)), ""
    for number, state in enumerate(states):
        if state != shown:
            board, shown = _board(game.render(game.from_text(state))), state
        step = run.steps[number] if number < len(run.steps) else None
        lines = _lines(_short(who), run, number, step, scores[min(number + 1, len(run.steps))])
        yield _frame(board, lines)


def _board(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    scale = BOARD_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _lines(who: str, run: RunLog, number: int, step: StepLog | None, score: float) -> list[Line]:
    """score: after the step, or at the end."""
    total = [("", TEXT), (f"score {score:g}", TEXT)]
    if step is None:
        ending = "the game has ended" if run.terminated else f"stopped after {run.num_steps} steps"
        words = [who, f"run {run.run}", "", ending, *WON[run.won]]
        return [*((word, TEXT) for word in words), *total]
    answer = parse_response(step.response).answer
    words = [who, f"run {run.run}, step {number + 1}", ""]
    words += _wrapped("no answer" if answer is None else f"answer: {answer}")
    if step.refused is None:
        outcome = [(f"reward {step.reward:g}", GOOD)]
    else:
        outcome = [(line, BAD) for line in _wrapped(f"illegal: {step.refused}")]
    return [*((word, TEXT) for word in words), *outcome, *total]


def _frame(board: Image.Image, lines: list[Line]) -> NDArray[np.uint8]:
    height = max(board.height, MIN_HEIGHT_PX)
    image = Image.new("RGB", (_even(board.width + PANEL_PX), _even(height)), "white")
    image.paste(board, (0, 0))
    pen = ImageDraw.Draw(image)
    for number, (text, color) in enumerate(lines):
        place = (board.width + MARGIN_PX, MARGIN_PX + number * LINE_PX)
        pen.text(place, text, fill=color, font=_font())
    return np.asarray(image)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CHARS, max_lines=MAX_LINES, placeholder=" ...") or [""]


def _short(text: str) -> str:
    return text if len(text) <= LINE_CHARS else f"...{text[3 - LINE_CHARS :]}"


def _even(length: int) -> int:
    return length + length % 2


@cache
def _font() -> Any:
    return ImageFont.load_default(TEXT_PX)
