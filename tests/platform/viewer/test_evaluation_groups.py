"""Runs of an evaluation as groups of one branch: whole episodes."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from vlmgym.evals.evaluation import Conduct, carry_out
from vlmgym.evals.log import Evaluation, Policy
from vlmgym.evals.protocol import MAX_STEPS
from vlmgym.viewer.evaluation import groups_of_runs
from vlmgym.viewer.source import read_source
from vlmgym_envs.registry import make_game


def carried_out(out: Path, policy: str):
    game = make_game("shisen_sho", "tiny")
    evaluation = Evaluation(
        game="shisen_sho",
        level="tiny",
        overrides={},
        knobs={"rows": 3},
        prompt=game.prompt,
        score=game.score,
        policy=Policy(spec=policy, kind="teacher", name=policy),
        protocol="paper",
        num_runs=2,
        max_steps=MAX_STEPS["paper"],
        seed=0,
        temperature=1.0,
        max_tokens=64,
    )
    return carry_out(evaluation, out, Conduct(ceilings=False, num_videos=0), Console(file=StringIO()))


def test_every_step_of_every_run_is_a_turn(tmp_path: Path) -> None:
    log = carried_out(tmp_path, "random")
    groups, pictures = groups_of_runs(log, ask_solver=True)
    assert [group.group_id for group in groups] == [0, 1]
    for run, group in zip(log.runs, groups, strict=True):
        (branch,) = group.branches
        assert [turn.response for turn in branch.turns] == [step.response for step in run.steps]
        assert [group.boards[turn.board].text for turn in branch.turns] == run.states[:-1]
        assert group.boards[branch.end].text == run.end_state
        assert [turn.refused for turn in branch.turns] == [step.refused for step in run.steps]
        assert all((turn.regret or 0) > 0 for turn in branch.turns if turn.refused)
        assert {board.picture for board in group.boards} <= set(pictures)


def test_the_solver_is_asked_only_where_it_shall_be(tmp_path: Path) -> None:
    log = carried_out(tmp_path, "solver")
    asked, _ = groups_of_runs(log, ask_solver=True)
    for group in asked:
        turns = group.branches[0].turns
        assert [turn.move for turn in turns] == [group.boards[turn.board].best for turn in turns]
        assert {turn.regret for turn in turns} == {0.0}
    unasked, _ = groups_of_runs(log, ask_solver=False)
    assert {board.best for group in unasked for board in group.boards} == {None}


def test_an_evaluation_has_a_page_with_its_scores(tmp_path: Path) -> None:
    carried_out(tmp_path, "solver")
    source = read_source(tmp_path)
    assert list(source.scores) == ["solver"] and len(source.groups) == 2
    group = source.groups[0]
    assert source.picture(group, group.boards[0].picture).startswith(b"\x89PNG")
