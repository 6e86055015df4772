import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from vlmgym.cli import main
from vlmgym.evals.log import read_log
from vlmgym_policies.history import History

pytestmark = pytest.mark.usefixtures("without_curves")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def evaluate(out: Path, *arguments: object, policy: str = "solver") -> int:
    return run("eval", "--game", "shisen_sho", "--level", "tiny", "--policy", policy, "--out", out, *arguments)


def test_prints_the_policy_beside_its_ceilings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "e", "--runs", 2, "--no-video", policy="path_blind") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in lines if line and line.split()[0] in ("path_blind", "solver", "greedy")]
    assert rows == 2 * ["path_blind", "greedy", "solver"]  # scores, then seeing and reasoning
    assert f"vlmgym: results in {tmp_path / 'e'}" in lines
    log = read_log(tmp_path / "e")
    assert (log.evaluation.num_runs, log.evaluation.max_steps, log.evaluation.max_tokens) == (2, 100, 8192)
    assert log.evaluation.knobs["rows"] == 3
    assert log.evaluation.prompt.startswith("The picture shows a Shisen-Sho board with 3 rows and 4 columns.")


def test_options_reach_the_evaluation(tmp_path: Path) -> None:
    options = "--runs 1 --steps 2 --seed 5 --protocol full --temperature 0 --max-tokens 77 --no-ceilings --video"
    options += " --history-turns 3 --history-pictures all"
    assert evaluate(tmp_path / "e", *options.split(), "--set", "rows=2", "--set", "copies=2") == 0
    log = read_log(tmp_path / "e")
    found = log.evaluation
    assert (found.num_runs, found.max_steps, found.seed, found.protocol) == (1, 2, 5, "full")
    assert (found.temperature, found.max_tokens, found.history) == (0.0, 77, History(3, "all"))
    assert found.overrides == {"rows": 2, "copies": 2} and found.knobs["copies"] == 2
    assert len(log.runs[0].states[0].splitlines()) == 2 and log.ceilings == {}
    assert (tmp_path / "e" / "videos" / "run-000.mp4").is_file()


def test_a_dry_run_plays_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "e", "--dry-run", "--protocol", "full", policy="openai:m@http://127.0.0.1:1/v1") == 0
    lines = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["policy"] == "endpoint m at http://127.0.0.1:1/v1"
    assert lines["protocol"] == "full: 10 runs of at most 10000 steps"
    assert lines["game"].startswith("shisen_sho, level tiny: ") and "rows 3, cols 4" in lines["game"]
    assert lines["history"] == "0 earlier steps, all of them with picture"
    assert lines["responses"] == "temperature 1, at most 8192 tokens"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--game", "shisen"], "unknown game 'shisen', did you mean 'shisen_sho'?"),
        (["--level", "papr"], "unknown level of shisen_sho 'papr', did you mean 'paper'?"),
        (["--policy", "slover"], "unknown policy 'slover', did you mean 'solver'?"),
        (["--set", "rows=40"], "rows must be in 2..16, got 40"),
        (["--set", "rows"], "--set takes knob=value, got 'rows'"),
        (["--set", "rows=[1"], "--set rows: line 1"),
        (["--set", "level=1"], "unknown level knob 'level'"),
        (["--set", "colour=1"], "unknown level knob 'colour', did you mean 'colors'?"),
        (["--protocol", "papr"], "'papr' is not one of 'paper', 'full'"),
        (["--history-turns", "full"], "history.turns must be a whole number of at least 0 or all, got 'full'"),
        (["--runs", "0"], "--runs': Input should be greater than or equal to 1"),
        (["--temperature", "-1"], "--temperature': Input should be greater than or equal to 0"),
        (["--policy", "looking:one_too_few", "--runs", "3"], "one_too_few must return one answer per prompt, 3, got 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    looking: ModuleType,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert evaluate(tmp_path / "e", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlmgym: ") and message in line


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("--game", "--game is required: policy 'solver' is no model of a run"),
        ("--policy", "Missing option '--policy'"),
        ("--out", "Missing option '--out'"),
    ],
)
def test_what_is_required_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, missing: str, message: str
) -> None:
    options = {"--game": "shisen_sho", "--policy": "solver", "--out": str(tmp_path / "e")}
    del options[missing]
    assert run("eval", *(word for pair in options.items() for word in pair)) == 2
    assert message in capsys.readouterr().err


def test_runs_that_failed_are_told_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on port 1."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    spec, out = "openai:m@http://127.0.0.1:1/v1", tmp_path / "e"
    assert evaluate(out, "--runs", 2, "--retries", 0, "--no-ceilings", policy=spec) == 1
    said = capsys.readouterr().out
    assert "2 of 2 runs failed and are in no mean; the first: m: APIConnectionError: Connection error." in said
    assert [run.num_steps for run in read_log(out).runs] == [0, 0]


def test_a_model_directory_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_model: Callable[[int], Path]
) -> None:
    options = "--runs 2 --steps 2 --max-tokens 4 --no-ceilings --no-video"
    assert evaluate(tmp_path / "e", *options.split(), policy=str(make_model(0))) == 0
    log = read_log(tmp_path / "e")
    tokens = [step.tokens for run in log.runs for step in run.steps]
    assert len(tokens) == 4 and all(count is not None and 1 <= count.completion <= 4 for count in tokens)
    assert log.summary.tokens is not None
    said = capsys.readouterr().out
    assert f"{log.summary.tokens.prompt} prompt tokens and {log.summary.tokens.completion} response tokens" in said
    assert log.summary.num_cut == 0 or f"{log.summary.num_cut} of 4 responses were cut at 4 tokens" in said


def test_compare_sets_logs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("solver", "path_blind"):
        assert evaluate(tmp_path / name, "--runs", 4, "--no-ceilings", "--no-video", policy=name) == 0
    capsys.readouterr()
    assert run("compare", tmp_path / "solver", tmp_path / "path_blind" / "eval.json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    scores = {name: [found.score for found in read_log(tmp_path / name).runs] for name in ("solver", "path_blind")}
    mean = sum(scores["path_blind"]) / 4 - sum(scores["solver"]) / 4
    assert last.startswith(f"{tmp_path / 'path_blind' / 'eval.json'} - {tmp_path / 'solver'}: score {mean:.2f} ")
    assert last.endswith("paired over 4 runs from equal starts")


def test_compare_refuses_one_log_and_newer_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "e", "--runs", 1, "--no-ceilings", "--no-video") == 0
    assert run("compare", tmp_path / "e") == 2
    assert capsys.readouterr().err == "vlmgym: compare takes at least two logs, got 1\n"
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({"version": 99}))
    assert run("compare", tmp_path / "e", newer) == 2
    assert capsys.readouterr().err.endswith(
        "newer.json has version 99, this vlmgym reads up to 2: install a newer vlmgym\n"
    )
