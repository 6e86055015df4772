"""What a response is worth: game, perception and format, each measured apart and weighed per game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from vlmgym_envs.core import Game
from vlmgym_policies.answers import Response, parse_response
from vlmgym_policies.insight import Perception, Regrets, Tally, legal_as_perceived, perceive, tally

UNPAID_PERCEPTION = ("shisen_sho", "shisen_sho_pictures")
"""Games whose perception block earns nothing in the paper."""


class Score(NamedTuple):
    """One scored decision.

    reward: what is trained on. game_reward: the game part before weighing. legal: the answer was accepted by the rules.
    well_formed: all three tag pairs. legal_as_perceived: as the function of that name says. regret: as in `Regrets`,
    None where it was not judged.
    """

    reward: float
    game_reward: float
    legal: bool
    well_formed: bool
    perception: Perception
    legal_as_perceived: bool | None
    regret: float | None = None

    @property
    def cells(self) -> float:
        """Share of the cells perceived right."""
        return self.perception.right

    @property
    def board(self) -> bool:
        """The whole board perceived right."""
        return self.perception.board

    @property
    def tally(self) -> Tally:
        """This decision alone."""
        return tally(
            self.legal,
            self.game_reward > 0,
            self.well_formed,
            self.perception,
            self.legal_as_perceived,
            self.regret,
        )


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """reward = game * game_reward + perception * [board right] + format * [well formed] (G1, arXiv 2505.13426).

    Departure: the paper looks for the board text anywhere in the response, here it must be the perception block.
    """

    game: float
    perception: float
    format: float

    @classmethod
    def of(cls, game_id: str, **overrides: float) -> Self:
        """The paper's weights for a game, with overrides by name."""
        paper = {"game": 1.0, "perception": 0.0 if game_id in UNPAID_PERCEPTION else 1.0, "format": 1.0}
        unknown = overrides.keys() - paper.keys()
        if unknown:
            raise ValueError(f"reward weights are {', '.join(paper)}, got {', '.join(sorted(unknown))}")
        return cls(**{**paper, **overrides})

    def score(
        self, game: Game[Any, Any, Any], state: Any, response: Response, game_reward: float, legal: bool
    ) -> Score:
        """Scores a response given in `state`, whose answer the environment has already played."""
        perception = perceive(game, state, response)
        as_perceived = legal if perception.board else legal_as_perceived(game, response)
        right = self.perception * perception.board + self.format * response.well_formed
        reward = self.game * game_reward + right
        return Score(reward, game_reward, legal, response.well_formed, perception, as_perceived)


def judge(
    game: Game[Any, Any, Any], state: Any, text: str, weights: RewardWeights, regrets: Regrets | None = None
) -> Score:
    """Scores a response without an environment: +1 for progress, -1 otherwise, as `GameGroupEnv` does by default."""
    response = parse_response(text)
    step = game.play(state, response.answer or "")
    score = weights.score(game, state, response, 1.0 if step.reward > 0 else -1.0, legal=step.refused is None)
    return score if regrets is None else score._replace(regret=regrets(state, response.answer))
