"""How the runs of an evaluation become groups: of one branch each, which is the whole episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmgym.evals.log import EvalLog, Evaluation, RunLog
from vlmgym.tracking.group_record import VERSION, Boards, BranchRecord, GroupRecord, TurnRecord, layout, read_turn
from vlmgym_envs.core import Game
from vlmgym_policies.insight import Regrets

STAGE = "evaluation"


def groups_of_runs(log: EvalLog, *, ask_solver: bool) -> tuple[Sequence[GroupRecord], dict[str, bytes]]:
    """The runs, and the pictures that they name. ask_solver: what it would have done in each state, and the regret."""
    game = log.evaluation.make_game()
    regrets = Regrets(game) if ask_solver else None
    pictures: dict[str, bytes] = {}
    groups = []
    for run in log.runs:
        boards = Boards(game)
        branch = _branch(game, run, boards, regrets)
        groups.append(_group(game, log.evaluation, run, branch, boards))
        pictures |= boards.pictures
    return groups, pictures


def _group(
    game: Game[Any, Any, Any], evaluation: Evaluation, run: RunLog, branch: BranchRecord, boards: Boards
) -> GroupRecord:
    return GroupRecord(
        version=VERSION,
        stage=STAGE,
        step=0,
        group_id=run.run,
        game=evaluation.game,
        level=game.level_name,
        unit=game.value_unit,
        boards=tuple(boards.records),
        branches=(branch,),
        **layout(game),
    )


def _branch(game: Game[Any, Any, Any], run: RunLog, boards: Boards, regrets: Regrets | None) -> BranchRecord:
    turns = []
    for text, step in zip(run.states, run.steps, strict=False):
        state = game.from_text(text)
        read = read_turn(game, state, step.response)
        turns.append(
            TurnRecord(
                board=boards.add(state, regrets.best_answer(state) if regrets else None),
                refused=step.refused,
                reward=step.reward,
                game_reward=step.reward,
                regret=regrets(state, read["move"]) if regrets else None,
                num_tokens=step.tokens.completion if step.tokens else None,
                cut=step.cut,
                **read,
            )
        )
    end = boards.add(game.from_text(run.end_state))
    return BranchRecord(turns=tuple(turns), end=end, terminated=run.terminated, won=run.won)
