import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from vlmgym.cli import main
from vlmgym.terminal_game import TerminalGame
from vlmgym_envs import Game, game_ids, make_game

PLAIN = {"width": 200, "height": 40, "highlight": False}


def play(game: Game[Any, Any, Any], *lines: str, seed: int = 3, **terminal: Any) -> str:
    """What a game shows to someone who types these lines."""
    typed = iter(lines)

    def read() -> str:
        for line in typed:
            console.print(f"> {line}", markup=False)
            return line
        raise EOFError

    console = Console(file=io.StringIO(), **(PLAIN | terminal))
    TerminalGame(game, seed, console, read).run()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def answers(text: str) -> list[list[str]]:
    """The lines printed after each typed one."""
    return [part.strip("\n").splitlines()[1:] for part in text.split("\n> ")[1:]]


@pytest.fixture
def game() -> Game[Any, Any, Any]:
    return make_game("shisen_sho", "tiny")


def test_moves_are_played_and_scored(game: Game[Any, Any, Any]) -> None:
    state = game.init(3)
    first, second = (game.format_answer(action) for action in game.legal_actions(state)[:2])
    played = answers(play(game, first, "[0 0] [0,0]", "left", "undo", second, "quit"))
    assert played[0][-1] == "Reward 1, score 1 after 1 move."
    assert played[1] == ["Refused: the two cells must differ, got (0, 0) twice."]
    (line,) = played[2]
    assert line.startswith("Not a move: expected only whole numbers, got 'left'. A move is written as (row1, col1) (")
    assert played[4][-1] == "Reward 1, score 1 after 1 move."
    assert played[5] == ["Score 1 after 1 move."]


def test_the_board_shows_every_cell_with_its_numbers(game: Game[Any, Any, Any]) -> None:
    shown = answers(play(game, "board"))[0]
    cells = game.cells(game.describe(game.init(3)))
    rows = [" ".join(line.split()) for line in shown]
    assert rows[0] == "0 1 2 3"
    assert rows[2:5] == [" ".join([str(number), *row]) for number, row in enumerate(cells)]


def test_the_text_and_the_rules_are_those_of_a_model(game: Game[Any, Any, Any]) -> None:
    text, rules = answers(play(game, "text", "rules"))
    assert "\n".join(text[:3]) == game.describe(game.init(3))
    assert "\n".join(rules[:12]) == game.prompt


def test_a_hint_is_the_solvers_and_legal_lists_all_moves(game: Game[Any, Any, Any]) -> None:
    state = game.init(3)
    (hint,), legal, *_ = answers(play(game, "hint", "legal", "undo"))
    action = game.solve(state)
    assert hint == f"{game.format_answer(action)}  because: {game.explain(state, action).strip()}"
    moves = [game.format_answer(each) for each in game.legal_actions(state)]
    assert legal[0] == f"{len(moves)} legal:"
    assert all(move in " ".join(legal[1:]) for move in moves)


def test_undo_goes_back_to_the_start_and_no_further(game: Game[Any, Any, Any]) -> None:
    first = game.format_answer(game.legal_actions(game.init(3))[0])
    played = answers(play(game, "board", first, "undo", "undo", "quit"))
    assert played[2] == played[0]
    assert played[3] == ["Nothing to undo."]
    assert played[4] == ["Score 0 after 0 moves."]


def test_a_game_ends_and_another_begins(game: Game[Any, Any, Any]) -> None:
    state, lines = game.init(3), []
    while (action := game.solve(state)) is not None:
        lines.append(game.format_answer(action))
        state = game.step(state, action).state
    assert len(lines) == 6  # 12 tiles
    played = answers(play(game, *lines, lines[0], "hint", "new", "quit"))
    assert played[5][-2:] == [
        "Reward 1, score 6 after 6 moves.",
        "The game has ended: cleared True. Type new, undo or quit.",
    ]
    assert played[6] == ["The game has ended: new, undo or quit."]
    assert played[7] == ["No move is legal."]
    assert played[8][0] == "shisen_sho, level tiny, seed 4."
    assert played[9] == ["Score 0 after 0 moves."]


def test_the_score_is_counted_as_the_game_says(game: Game[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    state = game.init(3)
    answer = game.format_answer(game.legal_actions(state)[0])
    step = type(game).step
    monkeypatch.setattr(type(game), "step", lambda *given: step(*given)._replace(reward=4.0))
    assert answers(play(game, answer))[0][-3] == "Reward 4, score 1 after 1 move."
    monkeypatch.setattr(type(game), "score", "reward_sum")
    assert answers(play(game, answer))[0][-3] == "Reward 4, score 4 after 1 move."


def test_a_terminal_with_colors_shows_the_picture(game: Game[Any, Any, Any]) -> None:
    colors = {"force_terminal": True, "color_system": "truecolor", "no_color": False}
    shown = play(game, **colors)
    lines = [line for line in shown.splitlines() if "▀" in line]
    assert len(lines) == 24 and all(line.count("▀") == 64 for line in lines)  # 64 x 48 pixels
    assert "▀" not in play(game) and "▀" not in play(game, **(colors | {"no_color": True}))
    low = play(game, **(colors | {"height": 10}))
    assert sum("▀" in line for line in low.splitlines()) == 16


@pytest.mark.parametrize("game_id", game_ids())
def test_every_game_can_be_played(game_id: str) -> None:
    game = make_game(game_id, "tiny")
    action = game.format_answer(game.legal_actions(game.init(3))[0])
    played = answers(play(game, action, "hint", "legal", "undo", "text", "quit"))
    assert any(line.startswith("Reward ") for line in played[0])
    assert played[4] == game.describe(game.init(3)).splitlines()
    assert played[5] == ["Score 0 after 0 moves."]


def test_a_pipe_can_play() -> None:
    program = "from vlmgym.cli import main; main(['play', 'shisen_sho', '--level', 'tiny', '--seed', '3'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="(0, 0) (0, 0)\n",
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shisen_sho, level tiny, seed 3.\n" in done.stdout
    assert done.stdout.endswith(
        "> (0, 0) (0, 0)\nRefused: the two cells must differ, got (0, 0) twice.\n> \nScore 0 after 0 moves.\n"
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Game[Any, Any, Any], int]]:
    """The games and seeds that `vlmgym play` starts with."""
    calls: list[tuple[Game[Any, Any, Any], int]] = []
    monkeypatch.setattr(TerminalGame, "__init__", lambda self, game, seed, console: calls.append((game, seed)))
    monkeypatch.setattr(TerminalGame, "run", lambda self: None)
    return calls


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["play", *arguments])
    return ended.value.code


def test_the_level_its_knobs_and_the_seed_are_those_asked_for(started: list[tuple[Game[Any, Any, Any], int]]) -> None:
    assert run("shisen_sho", "--level", "tiny", "--seed", "5", "--set", "rows=2", "--set", "solvable=false") == 0
    assert [run("shisen_sho") for _ in range(8)] == [0] * 8
    (game, seed), *others = started
    assert (game.level.rows, game.level.cols, game.level.solvable, seed) == (2, 4, False, 5)
    assert {game.level_name for game, _ in others} == {"paper"}
    assert len({seed for _, seed in others}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chess"], "unknown game 'chess'"),
        (["shisen_sho", "--level", "papr"], "did you mean 'paper'?"),
        (["shisen_sho", "--set", "rows"], "--set takes knob=value, got 'rows'"),
        (["shisen_sho", "--set", "rows=[1"], "line 1"),
        (["shisen_sho", "--set", "row=4"], "unknown level knob 'row', did you mean 'rows'?"),
        (["shisen_sho", "--set", "rows=40"], "rows must be in 2..16, got 40"),
    ],
)
def test_bad_input_is_one_line(
    started: list[tuple[Game[Any, Any, Any], int]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert started == []
