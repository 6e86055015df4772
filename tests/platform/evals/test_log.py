import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vlmgym.errors import BadInput
from vlmgym.evals.log import VERSION, EvalLog, Evaluation, RunLog, StepLog, Tokens, read_log, write_log
from vlmgym.evals.summary import summarize

Make = Callable[..., Evaluation]
MakeStep = Callable[..., StepLog]


@pytest.fixture
def log(make_evaluation: Make, make_step: MakeStep) -> EvalLog:
    steps = (
        make_step(state=" - | X ", tokens=Tokens(prompt=5, completion=2)),
        make_step(reward=0.0, refused="cell is empty", cells=0.5, response='quotes " and \n and \u2028 and é'),
        make_step(state=" - | - ", well_formed=False, cut=True),
    )
    common = {"seed": 2**53 - 1, "terminated": True, "steps": steps, "end_state": "end", "num_steps": 3}
    runs = [
        RunLog(run=0, score=2.0, won=True, **common),
        RunLog(run=1, score=1.0, error="APITimeoutError: Request timed out.", **common),
    ]
    return EvalLog(
        version=VERSION,
        vlmgym="0.1.0",
        finished_at=datetime(2026, 1, 2, tzinfo=UTC),
        evaluation=make_evaluation(),
        summary=summarize(runs),
        ceilings={"solver": summarize(runs[:1])},
        runs=tuple(runs),
    )


def test_a_log_reads_back_equal(log: EvalLog, tmp_path: Path) -> None:
    write_log(log, tmp_path / "eval.json")
    assert read_log(tmp_path / "eval.json") == log
    assert read_log(tmp_path) == log
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_the_file_is_plain_json_with_a_line_per_run(log: EvalLog, tmp_path: Path) -> None:
    write_log(log, tmp_path / "eval.json")
    text = (tmp_path / "eval.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["version"] == 2
    assert found["runs"][0]["steps"][1]["refused"] == "cell is empty"
    assert "refused" not in found["runs"][0]["steps"][0]
    lines = text.split("\n")
    assert sum(line.startswith('{"run":') for line in lines) == 2


def test_states_are_repeated_where_they_did_not_change(log: EvalLog) -> None:
    assert log.runs[0].states == [" - | X ", " - | X ", " - | - ", "end"]


def test_an_outcome_is_a_run_without_its_steps(log: EvalLog) -> None:
    outcome = log.runs[1].outcome
    assert (outcome.run, outcome.score, outcome.error) == (1, 1.0, "APITimeoutError: Request timed out.")
    assert set(log.runs[1].model_dump()) - set(outcome.model_dump()) == {"steps", "end_state"}


def test_a_newer_version_is_refused_with_what_to_do(log: EvalLog, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    write_log(log, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": VERSION + 1, "surprise": 1}))
    with pytest.raises(BadInput, match=f"has version {VERSION + 1}, this vlmgym reads up to {VERSION}: install"):
        read_log(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("", "is no evaluation log"),
        ("[1]", "is no evaluation log: it has no version"),
        ('{"version": true}', "is no evaluation log: it has no version"),
        ('{"version": 1}', "is damaged: vlmgym: Field required"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "eval.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_log(path)


def test_an_unknown_field_is_refused(log: EvalLog, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    write_log(log, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))
    with pytest.raises(BadInput, match="is damaged: surprise: Extra inputs"):
        read_log(path)
