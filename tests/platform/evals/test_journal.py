from collections.abc import Callable
from pathlib import Path

import pytest

from vlmgym.errors import BadInput
from vlmgym.evals.journal import Journal, JournalStep
from vlmgym.evals.log import StepLog

MakeStep = Callable[..., StepLog]


def test_what_was_appended_is_there_after_a_kill(tmp_path: Path, make_step: MakeStep) -> None:
    steps = [JournalStep(run=number, step=0, log=make_step(response=f"é\n{number}")) for number in range(3)]
    journal = Journal(tmp_path / "j", JournalStep)
    assert journal.records == []
    for step in steps[:2]:
        journal.append(step)
    again = Journal(tmp_path / "j", JournalStep)
    assert again.records == steps[:2]
    again.append(steps[2])
    again.close()
    assert Journal(tmp_path / "j", JournalStep).records == steps


def test_a_line_that_was_cut_short_is_dropped_for_good(tmp_path: Path, make_step: MakeStep) -> None:
    path, step = tmp_path / "j", JournalStep(run=0, step=0, log=make_step())
    whole = step.model_dump_json() + "\n"
    for length in range(len(whole)):
        path.write_text(whole + whole[:length])
        journal = Journal(path, JournalStep)
        assert journal.records == [step]
        journal.append(step)
        journal.close()
        assert Journal(path, JournalStep).records == [step, step]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("hello\n")
    with pytest.raises(BadInput, match="j is damaged: choose another --out"):
        Journal(tmp_path / "j", JournalStep)
