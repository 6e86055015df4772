import json
import re
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from vlmgym.errors import BadInput
from vlmgym.evals.evaluation import Conduct, carry_out
from vlmgym.evals.log import EvalLog, Evaluation, read_log
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import GenerationError

Make = Callable[..., Evaluation]

pytestmark = pytest.mark.usefixtures("without_curves")

QUIET = Conduct(ceilings=False, num_videos=0)


def result(path: Path) -> str:
    """eval.json without the time it was finished."""
    return re.sub(r'"finished_at": "[^"]*"', "", (path / "eval.json").read_text(encoding="utf-8"))


def names(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_leaves_the_log_the_curves_the_ceilings_and_the_videos(
    make_evaluation: Make, tmp_path: Path, console: Console
) -> None:
    log = carry_out(make_evaluation("random", max_steps=20), tmp_path / "e", Conduct(num_videos=2), console)
    assert read_log(tmp_path / "e") == log
    assert names(tmp_path / "e") == [
        "ceilings/greedy.jsonl",
        "ceilings/legal_random.jsonl",
        "ceilings/solver.jsonl",
        "curves.png",
        "eval.json",
        "evaluation.json",
        "videos/run-000.mp4",
        "videos/run-001.mp4",
    ]
    assert list(log.ceilings) == ["legal_random", "greedy", "solver"]
    solver = log.ceilings["solver"]
    assert solver.score is not None and solver.score.mean == 6.0
    assert [run.run for run in log.runs] == [0, 1, 2]
    assert log.summary.score is not None
    assert log.summary.score.mean == pytest.approx(sum(run.score for run in log.runs) / 3)


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_had_not_been(
    make_evaluation: Make, looking: ModuleType, tmp_path: Path, console: Console
) -> None:
    evaluation = make_evaluation("looking:answer", num_runs=4, max_steps=9)
    whole = carry_out(evaluation, tmp_path / "whole", QUIET, console)
    total = sum(looking.asked)
    assert total == whole.summary.num_steps and len({run.num_steps for run in whole.runs}) > 1

    looking.asked.clear()
    looking.fail_after = 5
    with pytest.raises(RuntimeError, match="the power is cut"):
        carry_out(evaluation, tmp_path / "cut", QUIET, console)
    assert 0 < sum(looking.asked) < total
    assert names(tmp_path / "cut") == ["evaluation.json", "steps.jsonl"]
    with (tmp_path / "cut" / "steps.jsonl").open("ab") as file:
        file.write(b'{"run":0,"st')

    looking.fail_after = None
    again = carry_out(evaluation, tmp_path / "cut", QUIET, console)
    assert sum(looking.asked) == total, "no step is asked for twice"
    assert again.runs == whole.runs
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    assert names(tmp_path / "cut") == ["curves.png", "eval.json", "evaluation.json"]


def test_an_interrupt_is_heard_while_a_teacher_plays(
    make_evaluation: Make, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make_evaluation("legal_random", num_runs=4)
    whole = carry_out(evaluation, tmp_path / "whole", QUIET, console)
    asked: list[int] = []
    demonstrate = Demonstrator.demonstrate

    def interrupt(self: Demonstrator, state: Any, rng: np.random.Generator) -> str:
        asked.append(1)
        if len(asked) == 6:
            signal.raise_signal(signal.SIGINT)
        return demonstrate(self, state, rng)

    monkeypatch.setattr(Demonstrator, "demonstrate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        carry_out(evaluation, tmp_path / "e", QUIET, console)
    assert 6 <= len(asked) <= 10 < whole.summary.num_steps
    assert carry_out(evaluation, tmp_path / "e", QUIET, console).runs == whole.runs
    assert len(asked) == whole.summary.num_steps


def test_a_finished_evaluation_is_not_played_again(
    make_evaluation: Make, looking: ModuleType, tmp_path: Path, console: Console
) -> None:
    evaluation = make_evaluation("looking:answer", max_steps=3)
    first = carry_out(evaluation, tmp_path / "e", QUIET, console)
    before = (tmp_path / "e" / "eval.json").read_bytes()
    looking.fail_after = 0
    assert carry_out(evaluation, tmp_path / "e", QUIET, console) == first
    assert (tmp_path / "e" / "eval.json").read_bytes() == before
    with_ceilings = carry_out(evaluation, tmp_path / "e", Conduct(num_videos=0), console)
    assert with_ceilings.runs == first.runs and len(with_ceilings.ceilings) == 3
    assert read_log(tmp_path / "e") == with_ceilings


def test_concurrency_changes_nothing(
    make_evaluation: Make, looking: ModuleType, tmp_path: Path, console: Console
) -> None:
    for concurrency in (1, 2, 32):
        evaluation = make_evaluation("looking:answer_later", num_runs=4, max_steps=6)
        conduct = Conduct(concurrency, ceilings=False, num_videos=0)
        carry_out(evaluation, tmp_path / str(concurrency), conduct, console)
        assert max(looking.asked) == min(4, concurrency)
        looking.asked.clear()
    assert result(tmp_path / "1") == result(tmp_path / "2") == result(tmp_path / "32")


def test_failed_runs_are_told_and_gone_on_with(
    make_evaluation: Make, looking: ModuleType, tmp_path: Path, console: Console
) -> None:
    evaluation = make_evaluation("looking:answer", max_steps=4)
    whole = carry_out(evaluation, tmp_path / "whole", QUIET, console)
    answer = looking.answer

    def lose_one(images: Any, prompts: Any) -> Any:
        if len(looking.asked) == 2:
            looking.asked.append(0)
            raise GenerationError("lost")
        return answer(images, prompts)

    looking.asked.clear()
    looking.answer = lose_one
    one_each = Conduct(concurrency=1, ceilings=False, num_videos=3)
    cut = carry_out(evaluation, tmp_path / "e", one_each, console)
    assert cut.summary.num_failed == 1 and cut.summary.num_runs == 3
    assert cut.summary.score is not None and cut.summary.score.n == 2
    (failed,) = [run for run in cut.runs if run.error is not None]
    assert failed.error == "lost"
    assert [run for run in cut.runs if run.error is None] == [run for run in whole.runs if run.run != failed.run]
    assert "steps.jsonl" in names(tmp_path / "e")
    assert len([name for name in names(tmp_path / "e") if name.endswith(".mp4")]) == 2

    looking.answer = answer
    looking.asked.clear()
    carry_out(evaluation, tmp_path / "e", one_each, console)
    assert sum(looking.asked) == whole.runs[failed.run].num_steps - failed.num_steps
    assert result(tmp_path / "e") == result(tmp_path / "whole")
    assert len([name for name in names(tmp_path / "e") if name.endswith(".mp4")]) == 3


def test_ceilings_are_played_once(
    make_evaluation: Make, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, conduct = make_evaluation("random", max_steps=5), Conduct(num_videos=0)
    first = carry_out(evaluation, tmp_path / "e", conduct, console)
    path = tmp_path / "e" / "ceilings" / "solver.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    monkeypatch.setattr("vlmgym_envs.core.Game._legal_random", None)
    assert carry_out(evaluation, tmp_path / "e", conduct, console).ceilings == first.ceilings
    assert len(path.read_text().splitlines()) == 3


def test_a_policy_that_is_a_ceiling_is_played_once(make_evaluation: Make, tmp_path: Path, console: Console) -> None:
    log = carry_out(make_evaluation("solver"), tmp_path / "e", Conduct(num_videos=0), console)
    assert log.ceilings["solver"] == log.summary
    assert "ceilings/solver.jsonl" not in names(tmp_path / "e")


def test_a_directory_of_another_evaluation_is_refused(make_evaluation: Make, tmp_path: Path, console: Console) -> None:
    carry_out(make_evaluation("solver", max_steps=3), tmp_path / "e", QUIET, console)
    before = result(tmp_path / "e")
    for changes, difference in (
        ({"max_steps": 4}, "max_steps 3 there, 4 here"),
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"policy": "greedy"}, 'policy.name "solver" there, "greedy" here'),
        ({"knobs": {"rows": 4}}, "knobs.rows 3 there, 4 here"),
        ({"prompt": "play " * 99}, "here; choose another --out"),
    ):
        fields: dict[str, Any] = {"policy": "solver", "max_steps": 3, **changes}
        with pytest.raises(BadInput, match=re.escape(difference)) as refused:
            carry_out(make_evaluation(**fields), tmp_path / "e", QUIET, console)
        assert len(str(refused.value)) < 300
    assert result(tmp_path / "e") == before


def test_a_directory_of_anything_else_is_refused(make_evaluation: Make, tmp_path: Path, console: Console) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="is in use and holds no evaluation: choose another --out"):
        carry_out(make_evaluation(), tmp_path, QUIET, console)
    with pytest.raises(BadInput, match="is in use"):
        carry_out(make_evaluation(), tmp_path / "thesis.tex", QUIET, console)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_journal_with_a_gap_is_refused(make_evaluation: Make, tmp_path: Path, console: Console) -> None:
    evaluation = make_evaluation("solver")
    log = carry_out(evaluation, tmp_path / "e", QUIET, console)
    (tmp_path / "e" / "eval.json").unlink()
    step = json.loads(log.runs[0].steps[0].model_dump_json())
    (tmp_path / "e" / "steps.jsonl").write_text(json.dumps({"run": 0, "step": 1, "log": step}) + "\n")
    with pytest.raises(BadInput, match="damaged at step 1 of run 0"):
        carry_out(evaluation, tmp_path / "e", QUIET, console)


def test_protocol_full_plays_to_the_end(make_evaluation: Make, tmp_path: Path, console: Console) -> None:
    log: EvalLog = carry_out(make_evaluation("legal_random", protocol="full"), tmp_path / "e", QUIET, console)
    assert all(run.terminated for run in log.runs)
    assert log.summary.won is not None
    assert log.summary.won.mean == pytest.approx(sum(run.score == 6 for run in log.runs) / 3)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_moves_on_a_terminal_only(make_evaluation: Make, tmp_path: Path, terminal: bool) -> None:
    text = StringIO()
    shown = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    carry_out(make_evaluation("solver"), tmp_path / "e", QUIET, shown)
    assert ("3/3 runs" in text.getvalue()) == terminal
    assert terminal or text.getvalue() == "solver: 3 runs\n"
