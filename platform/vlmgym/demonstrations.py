"""What a cold start imitates: questions with a teacher's responses, written on the spot or read from a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmgym.dataset.directory import DataSet, prompt_of
from vlmgym.grpo.curriculum import Ladder, any_place
from vlmgym.grpo.mixture import Mixture
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_envs.core import Game
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_envs.splits import draw_start, in_held_out
from vlmgym_policies.baselines import Demonstrator, Wording
from vlmgym_policies.engine import Prompt
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import Observation, ask

START_STREAM = 1
ORDER_STREAM = 2


class Demonstration(NamedTuple):
    """A question, and a whole response to it."""

    prompt: Prompt
    response: str


class Demonstrations(Protocol):
    """An endless row of demonstrations; the i-th one depends on the seed and on i alone."""

    def __call__(self, index: int) -> Demonstration: ...


class Start(NamedTuple):
    """Where a demonstration begins: `draw_start` gives the state for this seed. rng: for what comes after."""

    seed: int
    state: Any
    rng: np.random.Generator


def start_of(game: Game[Any, Any, Any], env: GroupEnvConfig, rng: np.random.Generator) -> Start:
    """A start of the game, never a held-out one. rng: of the demonstration, from `rng_of`."""
    seed = int(rng.integers(2**62))
    return Start(seed, draw_start(game, seed, env.start, env.split, env.held_out), rng)


def rng_of(seed: int, index: int) -> np.random.Generator:
    """What decides the i-th demonstration of a seed."""
    return np.random.default_rng([seed, START_STREAM, index])


class TaughtDemonstrations:
    """Written on the spot by the teachers of the games.

    Games take turns by weight. Where one has a curriculum, each axis is at a uniformly drawn step of all it can reach:
    so GRPO meets no board that the model has not learned to read.
    """

    def __init__(
        self,
        env_config: Mapping[str, Any],
        teachers: Sequence[Mapping[str, float]],
        *,
        seed: int,
        observation: Observation = "picture",
        wording: Wording = "terse",
        weights: Sequence[float] = (1.0,),
        ladders: Mapping[int, Ladder] = MappingProxyType({}),
    ) -> None:
        """teachers: per game, weight per name in its `teachers`. ladders: by number of the game."""
        self._configs = GroupEnvConfig.mixture(env_config)
        self._teachers = teachers
        self._seed = seed
        self._observation: Observation = observation
        self._wording: Wording = wording
        self._mixture = Mixture(weights)
        self._ladders = ladders
        self._demonstrators: dict[Any, Demonstrator] = {}

    def __call__(self, index: int) -> Demonstration:
        rng, number = rng_of(self._seed, index), self._mixture.game(index)
        demonstrator = self._demonstrator(number, rng)
        start = start_of(demonstrator.game, self._configs[number], rng)
        prompt = ask(demonstrator.game, start.state, self._observation)
        return Demonstration(prompt, demonstrator.demonstrate(start.state, rng))

    def _demonstrator(self, number: int, rng: np.random.Generator) -> Demonstrator:
        """Of a game, at its level or, where it has a curriculum, at a level of that."""
        knobs = any_place(self._ladders[number], rng) if number in self._ladders else {}
        key = number, tuple(sorted(knobs.items()))
        if key not in self._demonstrators:
            game = self._configs[number].make_game(**knobs)
            self._demonstrators[key] = Demonstrator(game, self._teachers[number], self._wording)
        return self._demonstrators[key]


class StoredDemonstrations:
    """The training rows of a data set, those of each game in another order each time around; games by weight.

    games: (game, level) of each; rows of other levels are left alone, so that a level that is held out stays so.
    """

    def __init__(
        self, path: str, games: Sequence[tuple[str, str]], *, seed: int, weights: Sequence[float] = (1.0,)
    ) -> None:
        """Errors: BadInput where `path` is no data set."""
        self._data = DataSet(Path(path))
        rows = self._data.rows("train")
        self._rows = [[row for row in rows if (row.game, row.level) == game] for game in games]
        self._seed = seed
        self._mixture = Mixture(weights)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __call__(self, index: int) -> Demonstration:
        number, num_before = self._mixture.draw(index)
        rows = self._rows[number]
        epoch, place = divmod(num_before, len(rows))
        row = rows[self._order(number, epoch)[place]]
        image = self._data.image_path("train", row).read_bytes()
        return Demonstration(prompt_of(row.prompt, image), row.response)

    def _order(self, number: int, epoch: int) -> NDArray[np.int64]:
        """The order of a game's rows, the `epoch`-th time around."""
        if number not in self._orders or self._orders[number][0] != epoch:
            rng = np.random.default_rng([self._seed, ORDER_STREAM, number, epoch])
            self._orders[number] = epoch, rng.permutation(len(self._rows[number]))
        return self._orders[number][1]


class DemonstrationWriter:
    """Spells demonstrations as training sequences.

    answer_weight: of the tokens from <think> on; those before weigh 1.
    """

    def __init__(self, make: Callable[[], Demonstrations], path: str, answer_weight: float) -> None:
        """path: a model directory, whose processor spells."""
        self._demonstrations = make()
        self._processor = VLMProcessor(path)
        self._answer_weight = answer_weight

    def write(self, first: int, count: int) -> list[TrainSequence]:
        return [self._spell(self._demonstrations(index)) for index in range(first, first + count)]

    def _spell(self, demonstration: Demonstration) -> TrainSequence:
        prompt, text = demonstration
        response_ids, spans = self._processor.spell_response(text)
        answered = np.array([end > text.index("<think>") for _, end in spans])
        weights = np.where(answered, self._answer_weight, 1.0).astype(np.float32)
        return TrainSequence(
            prompt_ids=self._processor.encode(prompt),
            response_ids=response_ids,
            old_logprobs=np.zeros_like(weights),
            weights=weights,
            advantages=np.ones_like(weights),
            turns=np.zeros(len(weights), dtype=np.int32),
            denominator=float(weights.sum()),
            images=prompt.images,
        )


def check_stored(path: str, envs: Sequence[GroupEnvConfig], observation: Observation) -> None:
    """Raises ValueError where a data set lacks one of the games, shows its boards in another way, or holds states that
    an environment keeps for evaluation."""
    data = DataSet(Path(path))
    rows = data.rows("train")
    for env in envs:
        game = env.game, env.level
        shown = {each.observation for each in data.about.recipe.sources if (each.game, each.level) == game}
        keys = [bytes.fromhex(row.key) for row in rows if (row.game, row.level) == game]
        if not keys:
            raise ValueError(f"{path} has no training row of {' '.join(game)}")
        if shown != {observation}:
            raise ValueError(f"{path} shows {', '.join(sorted(shown))}, and the job's prompts show {observation}")
        num_held_out = sum(in_held_out(key, env.held_out) for key in keys)
        if num_held_out:
            held_out = f"make it with held_out {env.held_out:g}"
            raise ValueError(f"{num_held_out} states of {env.game} in {path} are held out here: {held_out}")
