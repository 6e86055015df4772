from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vlmgym.evals.evaluation import Conduct, carry_out
from vlmgym.evals.log import EvalLog, Evaluation
from vlmgym.evals.video import BAD, BOARD_PX, GOOD, PANEL_PX, frames, write_video
from vlmgym_envs.core import Game

AnyGame = Game[Any, Any, Any]

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture
def log(make_evaluation: Callable[..., Evaluation], tmp_path: Path, console: Console) -> EvalLog:
    """One run of the solver, of 4 of its 6 steps."""
    evaluation = make_evaluation("solver", num_runs=1, max_steps=4)
    return carry_out(evaluation, tmp_path / "e", Conduct(ceilings=False, num_videos=0), console)


def has(frame: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((frame == color).all(axis=2).any())


def test_a_frame_per_step_and_one_of_the_end(game: AnyGame, log: EvalLog) -> None:
    pictures = list(frames(game, "solver", log.runs[0]))
    assert len(pictures) == 5
    assert {picture.shape for picture in pictures} == {(360, BOARD_PX + PANEL_PX, 3)}
    for picture, state in zip(pictures, log.runs[0].states, strict=True):
        board = Image.fromarray(game.render(game.from_text(state))).resize((BOARD_PX, 360), Image.Resampling.NEAREST)
        assert np.array_equal(picture[:, :BOARD_PX], np.asarray(board))
    assert [has(picture[:, BOARD_PX:], GOOD) for picture in pictures] == [True] * 4 + [False]
    assert len({picture[:, BOARD_PX:].tobytes() for picture in pictures}) == 5


def test_an_illegal_answer_is_red(game: AnyGame, log: EvalLog) -> None:
    run = log.runs[0]
    bad = run.steps[1].model_copy(update={"refused": "the cells must differ " * 20, "response": "", "reward": 0.0})
    changed = run.model_copy(update={"steps": (run.steps[0], bad, *run.steps[2:])})
    pictures = list(frames(game, "solver", changed))
    assert [has(picture, BAD) for picture in pictures] == [False, True, False, False, False]
    assert not has(pictures[1], GOOD)


def test_the_film_plays(game: AnyGame, log: EvalLog, tmp_path: Path) -> None:
    write_video(game, "solver", log.runs[0], tmp_path / "run.mp4")
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["run.mp4"]
    with av.open(str(tmp_path / "run.mp4")) as container:
        assert float(container.streams.video[0].average_rate or 0) == 2.0
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    drawn = list(frames(game, "solver", log.runs[0]))
    assert len(shown) == len(drawn) == 5
    for found, expected in zip(shown, drawn, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found.astype(float) - expected).mean() < 6


def test_odd_boards_make_even_frames(game: AnyGame, log: EvalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmgym.evals.video.BOARD_PX", 451)
    height, width, _ = next(frames(game, "solver", log.runs[0])).shape
    assert (height, width) == (338, 852), "451 x 338 pixels of board, 400 of words"


def test_an_encoder_that_is_missing_is_replaced(
    game: AnyGame, log: EvalLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("av.codecs_available", {"mpeg4"})
    write_video(game, "solver", log.runs[0], tmp_path / "run.mp4")
    with av.open(str(tmp_path / "run.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert sum(1 for _ in container.decode(video=0)) == 5
