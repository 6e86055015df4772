"""The settings of GRPO; defaults are those of G1 (arXiv 2505.13426), every departure is named where it is made."""

from __future__ import annotations

from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.connectors.learner import AgentToModuleMapping
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from vlmgym.grpo.config_rules import FIXED, check_rules
from vlmgym.grpo.objective_config import ObjectiveConfig
from vlmgym_envs.rllib import GameGroupEnv

POLICY_ID = "policy"


def policy_for(agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
    """All branches are played by the one policy."""
    return POLICY_ID


class GRPOConfig(ObjectiveConfig):
    """Chains like every RLlib config.

    Example:
        config = (
            GRPOConfig()
            .environment(env_config={"game": "shisen_sho", "level": "tiny", "group_size": 8})
            .vlm("path/or/hub-name", dtype="float32")
            .training(lr=8e-4, num_groups_per_train_batch=32)
        )
        algo = config.build_algo()
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from vlmgym.grpo.algorithm import GRPO
        from vlmgym.grpo.runner import VLMEnvRunner

        super().__init__(algo_class=algo_class or GRPO)
        self.num_groups_per_train_batch = 128
        self.max_dropped_groups = 128
        self.max_uninformative_groups = 0
        self.max_weights_lag = 0
        self.stale_groups = "wait"
        self.weight_decay = 0.01
        self.adam_betas = (0.9, 0.999)
        self.micro_batch_tokens = 16384
        self.lr = 1e-6
        self.grad_clip = 1.0
        self.grad_clip_by = "global_norm"
        self.env = GameGroupEnv
        self.env_runner_cls = VLMEnvRunner
        self._set_rllib_defaults()

    def _set_rllib_defaults(self) -> None:
        """Defaults of RLlib that do not fit: whole groups, no weights on runners, no tensors from connectors."""
        self.gamma = 1.0
        self.num_epochs = 1
        self.minibatch_size = None
        self.batch_mode = "complete_episodes"
        self.add_default_connectors_to_learner_pipeline = False
        self.episodes_to_numpy = False
        self.create_local_env_runner = False
        self.restart_failed_env_runners = True
        self.torch_skip_nan_gradients = True  # `VLMLearner` looks at their norm
        self._dont_auto_sync_env_runner_states = True
        self.multi_agent(policies={POLICY_ID}, policy_mapping_fn=policy_for)
        self.evaluation_config = {"explore": False}
        self._fixed = {name: getattr(self, name) for name in FIXED}

    def training(
        self,
        *,
        num_groups_per_train_batch: int = NotProvided,
        max_dropped_groups: int = NotProvided,
        max_uninformative_groups: int = NotProvided,
        max_weights_lag: int = NotProvided,
        stale_groups: Literal["wait", "drop"] = NotProvided,
        weight_decay: float = NotProvided,
        adam_betas: tuple[float, float] = NotProvided,
        micro_batch_tokens: int = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """The update.

        Args:
            num_groups_per_train_batch: start states per iteration, over all runners.
            max_dropped_groups: faulty groups per iteration that are replaced before the run stops with their reason.
            max_uninformative_groups: groups per iteration whose rewards are all equal that are replaced by new ones
                (dynamic sampling of DAPO, arXiv 2503.14476, bounded); the paper replaces none.
            max_weights_lag: how many updates behind the learners the weights may be that a group was asked for with.
                0 samples and updates in turn; above, sampling goes on while learners update.
            stale_groups: "wait" for groups before they are too old; "drop" and replace those that are.
            weight_decay: AdamW's, on matrices.
            adam_betas: AdamW's.
            micro_batch_tokens: bound on rows x padded length of one forward pass.
            kwargs: the objective's, and RLlib's own (`lr` may be a schedule over decisions sampled, `grad_clip`, ...).
        """
        super().training(**kwargs)
        return self._set(
            num_groups_per_train_batch=num_groups_per_train_batch,
            max_dropped_groups=max_dropped_groups,
            max_uninformative_groups=max_uninformative_groups,
            max_weights_lag=max_weights_lag,
            stale_groups=stale_groups,
            weight_decay=weight_decay,
            adam_betas=adam_betas,
            micro_batch_tokens=micro_batch_tokens,
        )

    def validate(self) -> None:
        """Refuses what makes no sense here, with what to use instead."""
        super().validate()
        check_rules(self)
        if set(self.policies) != {POLICY_ID}:
            raise ValueError(f"policies must be {{{POLICY_ID!r}}}: one model plays all branches")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from vlmgym_policies.vlm_module import VLMModule

        return RLModuleSpec(module_class=VLMModule)

    def get_default_learner_class(self) -> type:
        from vlmgym.grpo.learner import GRPOLearner

        return GRPOLearner

    def build_learner_connector(
        self, input_observation_space: Any = None, input_action_space: Any = None, device: Any = None
    ) -> Any:
        """The user's pieces first, then: advantages per group, records per decision, one object array."""
        from vlmgym.grpo.batching import GroupAdvantages, SequencesFromEpisodes, SequencesToObjectArrays

        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device)
        pipeline.append(GroupAdvantages(rule=self.advantage_rule))
        pipeline.append(SequencesFromEpisodes(average_over=self.average_over, max_tokens=self.max_tokens))
        pipeline.append(
            AgentToModuleMapping(
                rl_module_specs=set(self.policies),
                agent_to_module_mapping_fn=self.policy_mapping_fn,
                as_learner_connector=True,
            )
        )
        pipeline.append(SequencesToObjectArrays())
        return pipeline

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {
            **super()._model_config_auto_includes,
            "temperature": self.temperature,
            "reference": self.kl_coeff > 0,
        }
