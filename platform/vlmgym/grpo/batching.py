"""How groups become training batches: advantages, sequences to learn from, tensors of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from vlmgym.grpo.advantages import AdvantageRule, decision_advantages
from vlmgym.grpo.sequences import TrainSequence, merge_turns, response_weight
from vlmgym.grpo.variants import AverageOver
from vlmgym_policies.engine import Prompt
from vlmgym_policies.training_inputs import TrainingInputs

SEQUENCES = "sequences"
PROMPT_IDS = "prompt_ids"
RESPONSE_IDS = "response_ids"
RESPONSE_LOGPROBS = "response_logprobs"
WEIGHTS_VERSION = "weights_version"
IMAGE_DIGESTS = "image_digests"
NUM_CUT_TURNS = "num_cut_turns"


def num_tokens(group: Any) -> int:
    """Tokens that a learner reads of a group, a `MultiAgentEpisode`: prompt and response of every decision."""
    outputs = [branch.extra_model_outputs for branch in group.agent_episodes.values()]
    return sum(len(ids) for output in outputs for name in (PROMPT_IDS, RESPONSE_IDS) for ids in output[name])


class MicroBatch(NamedTuple):
    """One forward pass. `inputs` go to the module; the rest is [B, T] over the last T positions, turns int64."""

    inputs: dict[str, Any]
    old_logprobs: torch.Tensor
    weights: torch.Tensor
    advantages: torch.Tensor
    turns: torch.Tensor


class GroupAdvantages(ConnectorV2):
    """Learner connector: adds `Columns.ADVANTAGES`, float32 [T] per branch. One multi-agent episode is one group."""

    def __init__(self, rule: AdvantageRule) -> None:
        super().__init__()
        self._rule = rule

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, metrics: Any = None, **kwargs: Any) -> Any:
        for group in episodes:
            advantages = group_advantages(group, self._rule)
            for branch, of_turns in zip(group.agent_episodes.values(), advantages, strict=True):
                self.add_batch_item(batch, Columns.ADVANTAGES, of_turns, branch)
        return batch


def group_advantages(group: MultiAgentEpisode, rule: AdvantageRule) -> list[NDArray[np.float32]]:
    """What `rule` makes of the rewards of a group: per branch float32 [T], one number per decision."""
    branches = list(group.agent_episodes.values())
    rewards = [np.array(branch.get_rewards(), dtype=np.float32) for branch in branches]
    states = [[prompt.state for prompt in _prompts(branch)] for branch in branches]
    return decision_advantages(rewards, states, rule)


class SequencesFromEpisodes(ConnectorV2):
    """Learner connector: replaces `Columns.ADVANTAGES` by the `TrainSequence`s of every branch."""

    def __init__(self, average_over: AverageOver, max_tokens: int) -> None:
        super().__init__()
        self._average_over = average_over
        self._max_tokens = max_tokens

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        advantages = batch.pop(Columns.ADVANTAGES)
        # RLlib's own iterator goes through a set of names, in another order in each process.
        for branch in (branch for group in episodes for branch in group.agent_episodes.values()):
            (of_turns,) = advantages[(branch.multi_agent_episode_id, branch.agent_id, branch.module_id)]
            decisions = [self._sequence(branch, turn, advantage) for turn, advantage in enumerate(of_turns)]
            for sequence in merge_turns(decisions):
                self.add_batch_item(batch, SEQUENCES, sequence, branch)
        return batch

    def _sequence(self, branch: SingleAgentEpisode, turn: int, advantage: float) -> TrainSequence:
        outputs = {name: values[turn] for name, values in branch.extra_model_outputs.items()}
        prompt = _prompts(branch)[turn].without_first_turns(outputs[NUM_CUT_TURNS])
        response_ids = outputs[RESPONSE_IDS]
        weight, denominator = response_weight(len(response_ids), self._average_over, self._max_tokens)
        return TrainSequence(
            prompt_ids=outputs[PROMPT_IDS],
            response_ids=response_ids,
            old_logprobs=outputs[RESPONSE_LOGPROBS],
            weights=np.full(len(response_ids), weight, dtype=np.float32),
            advantages=np.full(len(response_ids), advantage, dtype=np.float32),
            turns=np.zeros(len(response_ids), dtype=np.int32),
            denominator=denominator,
            images=prompt.images,
            image_digests=outputs[IMAGE_DIGESTS],
            game=branch.get_infos(0)["game_number"],
        )


class SequencesToObjectArrays(ConnectorV2):
    """Learner connector: lists of records become object arrays, which RLlib can slice and leaves otherwise alone."""

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        for columns in batch.values():
            columns[SEQUENCES] = object_array(columns[SEQUENCES])
        return batch


def object_array(records: Sequence[TrainSequence]) -> NDArray[np.object_]:
    """Object array [N] of records; numpy would otherwise take the tuples apart."""
    array = np.empty(len(records), dtype=object)
    for index, record in enumerate(records):
        array[index] = record
    return array


def collate(records: Sequence[TrainSequence], to_inputs: TrainingInputs, device: torch.device) -> MicroBatch:
    """Pads records on the right; response values stand where their token is predicted for, zeros elsewhere."""
    inputs = to_inputs([r.token_ids for r in records], [r.images for r in records])
    width = inputs["input_ids"].shape[1]
    num_scored = width - min(len(r.prompt_ids) for r in records)
    columns = {name: torch.zeros(len(records), num_scored) for name in ("old_logprobs", "weights", "advantages")}
    columns["turns"] = torch.zeros(len(records), num_scored, dtype=torch.int64)
    for row, record in enumerate(records):
        start = len(record.prompt_ids) - (width - num_scored)
        place = slice(start, start + len(record.response_ids))
        for name, column in columns.items():
            column[row, place] = torch.tensor(getattr(record, name))
    moved = {name: value.to(device) for name, value in inputs.items()}
    return MicroBatch(
        {**moved, "num_scored": num_scored}, **{name: column.to(device) for name, column in columns.items()}
    )


def _prompts(branch: SingleAgentEpisode) -> list[Prompt]:
    """What was asked in each turn."""
    return list(branch.get_observations(slice(0, len(branch))))
