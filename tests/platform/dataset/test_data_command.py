"""Data sets as the command makes them: what is in them, and that nothing is which must not be."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmgym.cli import main
from vlmgym.dataset import making
from vlmgym.dataset.directory import DataSet
from vlmgym.dataset.draft import Draft
from vlmgym.dataset.records import SPLITS, Row
from vlmgym_envs.registry import game_ids, make_game
from vlmgym_envs.splits import draw_start, in_held_out
from vlmgym_policies.answers import parse_response
from vlmgym_policies.prompting import png

Run = Callable[..., int]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def files(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def rows_of(path: Path) -> list[Row]:
    return [row for _, row in DataSet(path).all_rows()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rows of every game at `tiny`; half of all states are held out, and a third of the others is for validation."""
    path = tmp_path_factory.mktemp("data") / "all"
    games = [f"{game}:tiny" for game in game_ids()]
    assert run("make", *games, "--out", path, "--num", 20, "--held-out", 0.5, "--validation", 0.33) == 0
    return path


def test_every_row_is_a_state_that_its_seed_gives_and_an_answer_that_the_rules_accept(made: Path) -> None:
    rows = rows_of(made)
    assert len(rows) == 20 * len(game_ids())
    for split in SPLITS:
        for row in DataSet(made).rows(split):
            game = make_game(row.game, row.level)
            state = draw_start(game, row.seed, held_out=0.5)
            assert game.describe(state) == row.state == row.perception
            assert (made / split / row.file_name).read_bytes() == png(game.render(state))
            step = game.play(state, row.action)
            assert step.refused is None and row.legal and row.cells == 1.0
            weights = {"shisen_sho": 0, "shisen_sho_pictures": 0}.get(row.game, 1)
            assert row.reward == (1 if step.reward > 0 else -1) + weights + 1
            assert parse_response(row.response) == (row.perception, row.think, row.action)
            (question,) = row.prompt
            assert [part.type for part in question.content] == ["image", "text"]
            assert question.content[1].text == game.prompt
    assert len({row.think for row in rows}) > 0.95 * len(rows)


def test_no_state_is_held_out_twice_there_or_in_two_splits(made: Path) -> None:
    data = DataSet(made)
    keys = {split: [(row.game, row.key) for row in data.rows(split)] for split in SPLITS}
    for split in SPLITS:
        assert len(set(keys[split])) == len(keys[split])
    assert not {key for _, key in keys["train"]} & {key for _, key in keys["validation"]}
    assert 15 < len(keys["validation"]) < 65
    for row in rows_of(made):
        game = make_game(row.game, row.level)
        assert game.key(game.from_text(row.state)).hex() == row.key
        assert not in_held_out(bytes.fromhex(row.key), 0.5)


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        assert run("make", "sokoban:tiny", "--out", tmp_path / name, "--num", 12, "--seed", seed) == 0
    assert files(tmp_path / "one") == files(tmp_path / "same")
    keys = [{row.key for row in rows_of(tmp_path / name)} for name in ("one", "other")]
    assert len(keys[0] & keys[1]) < 6


def test_the_datasets_library_loads_it_as_its_card_says(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path))
    found = rows_of(made)
    assert {name: len(split) for name, split in loaded.items()} == {
        split: len(DataSet(made).rows(split)) for split in SPLITS
    }
    first, row = loaded["train"][0], found[0]
    assert first["response"] == row.response and first["seed"] == row.seed and first["legal"] is True
    assert [part["type"] for part in first["prompt"][0]["content"]] == ["image", "text"]
    assert first["image"].size == Image.open(made / "train" / row.file_name).size
    stated = datasets.load_dataset_builder(str(made), cache_dir=str(tmp_path)).info
    assert stated.features == loaded["train"].features
    assert stated.splits["train"].num_examples == len(loaded["train"])


def test_a_job_says_how_its_game_is_played_and_who_teaches(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: j\ngame: {id: swap, level: tiny, overrides: {colors: 3}, start: fresh, held_out: 0.3}\n"
        "reward: {rule: raw, perception: 0}\nmodel: {tiny: true}\n"
        "cold_start: {updates: 1, lr: 1e-3, teacher: {neighbours: 1}}\ngrpo: {lr: 1e-3}\n"
    )
    assert run("make", job, "--out", tmp_path / "data", "--num", 60) == 0
    assert run("make", job, "--out", tmp_path / "better", "--num", 15, "--min-reward", 2) == 0
    game = make_game("swap", "tiny", colors=3)
    for row in rows_of(tmp_path / "data"):
        step = game.play(draw_start(game, row.seed, "fresh", held_out=0.3), row.action)
        assert row.teacher == "neighbours" and json.loads(row.overrides) == {"colors": 3}
        assert row.reward == (-1.0 if step.refused else step.reward) + 1
        assert row.legal == (step.refused is None)
    assert {row.legal for row in rows_of(tmp_path / "data")} == {True, False}
    assert {row.legal for row in rows_of(tmp_path / "better")} == {True}
    counts = DataSet(tmp_path / "better").about.counts[0]
    assert counts.kept == 15 and counts.rejected["reward"] == counts.asked - 15 > 0
    assert (tmp_path / "better" / "rejected.jsonl").read_bytes().count(b"\n") == counts.asked - 15


class Stopped(Exception): ...


@pytest.mark.parametrize("num_commits", [1, 3, 5])
def test_a_draft_goes_on_where_it_stopped_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_commits: int
) -> None:
    """Stopped in the middle of a batch: rows and pictures are on the disk that no commit counts, one is half a line."""
    make = ("make", "maze:tiny", "twenty48:tiny", "--num", 10, "--concurrency", 1)
    assert run(*make, "--out", tmp_path / "whole") == 0
    commit, done = Draft.commit, [0]

    def stop_later(draft: Draft, *arguments: object) -> None:
        if done[0] == num_commits:
            raise Stopped
        done[0] += 1
        commit(draft, *arguments)  # type: ignore[arg-type]

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Draft, "commit", stop_later)
        with pytest.raises(Stopped):
            main(["data", *map(str, make), "--out", str(out)])
    draft = tmp_path / "cut.partial"
    with (draft / "train" / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "ima')
    assert not out.exists() and run("inspect", draft) == 2
    assert run(*make, "--out", out) == 0
    assert files(out) == files(tmp_path / "whole") and not draft.exists()


KILLER = """
import os, signal
num_asked = 0
def answer(images, prompts):
    global num_asked
    num_asked += len(prompts)
    if num_asked > 8 and not os.path.exists("revived"):
        os.kill(os.getpid(), signal.SIGKILL)
    return ["nothing"] * len(prompts)
"""


def test_a_killed_process_leaves_no_data_set_and_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, "-m", "vlmgym", "data", "make", "maze:tiny", "--teacher", "killer:answer"]
    command += ["--out", "data", "--num", "2", "--concurrency", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    progress = json.loads((tmp_path / "data.partial" / "progress.json").read_text())
    assert progress["counts"][0]["asked"] == progress["counts"][0]["rejected"]["malformed"] == 8
    (tmp_path / "revived").touch()
    revived = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert revived.returncode == 0 and "0 of 2 rows, since the teacher failed in most of 40 states" in revived.stdout
    assert DataSet(tmp_path / "data").about.counts[0].rejected == {"malformed": 40}


def test_another_recipe_does_not_go_on_with_a_draft_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(Draft, "finish", lambda draft: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            main(["data", "make", "maze:tiny", "--out", str(out), "--num", "3"])
    assert run("make", "maze:tiny", "--out", out, "--num", 4) == 2
    assert "is the draft of another data set" in capsys.readouterr().err
    assert run("make", "maze:tiny", "--out", out, "--num", 3) == 0
    before = files(out)
    assert run("make", "maze:tiny", "--out", out, "--num", 3) == 2
    assert "is there already" in capsys.readouterr().err and files(out) == before


def test_a_level_without_more_states_gives_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "MAX_STALE_DRAWS", 2)
    assert run("make", "maze:tiny", "--out", tmp_path / "data", "--num", 5000) == 0
    num = len(rows_of(tmp_path / "data"))
    assert 10 < num < 5000
    assert f"maze tiny: {num} of 5000 rows, since the level has no more states" in capsys.readouterr().out
    assert DataSet(tmp_path / "data").about.counts[0].repeated >= 2


def test_inspect_counts_and_measures_anew(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("inspect", made) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    for game in game_ids():
        counts = [int(line[3]) for line in lines if line[:2] == [game, "tiny"]]
        assert len(counts) == 2 and sum(counts) == 20
    assert out.count("100.0%") == 4 * len(game_ids())
    assert "no state twice, none in two splits, none held out" in out
    with Image.open(tmp_path / "data-all.png") as sheet:
        assert len(sheet.getcolors(maxcolors=2**24)) > 50


def test_inspect_finds_what_must_not_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert run("make", "swap:tiny", "--out", out, "--num", 30, "--validation", 0.3) == 0
    rows = DataSet(out).rows("train")
    first, second, third, *_ = rows
    wrong = second.model_copy(update={"response": second.response.replace("circle", "square", 1)})
    other = third.model_copy(update={"key": "00" * 16})
    lines = [first, first, wrong, other, *rows[3:]]
    (out / "train" / "metadata.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in lines))
    with (out / "validation" / "metadata.jsonl").open("a") as file:
        file.write(first.model_dump_json() + "\n")
    (out / "train" / rows[4].file_name).unlink()
    assert run("inspect", out, "--sheet", tmp_path / "sheet.png", "--pictures", 1) == 1
    printed = capsys.readouterr().out
    assert "2 repeated states" in printed and "1 states in two splits" in printed
    assert "1 keys of another state" in printed and "1 held-out states" in printed and "2 pictures missing" in printed
    exact = (len(lines) - 1) / len(lines)
    assert f"{exact:.1%}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "maze:tiny", "maze:tiny", "--out", "d"], "maze tiny is named 2 times"),
        (["make", "mase", "--out", "d"], "unknown game 'mase', did you mean 'maze'?"),
        (["make", "maze:tinny", "--out", "d"], "did you mean 'tiny'?"),
        (["make", "maze:tiny", "--out", "d", "--teacher", "solvr"], "did you mean 'solver'?"),
        (["make", "maze:tiny", "--out", "d", "--teacher", "solver=x"], "--teacher takes name=weight, got 'solver=x'"),
        (["make", "maze:tiny", "--out", "d", "--teacher", "wizard=1"], "maze tiny: teacher must be one of greedy,"),
        (["make", "nowhere.yaml", "--out", "d"], "nowhere.yaml: No such file or directory"),
        (["inspect", "."], ". is no data set: it has no dataset.json"),
        (["inspect", ".", "--sheet", "x.jpg"], "--sheet must end in .png, got x.jpg"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
