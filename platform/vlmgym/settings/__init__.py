"""Decides which knobs a job has: each stands once, in the file of its section, with its default and its rule.

Defaults are those of G1 (arXiv 2505.13426) wherever the paper or its code states one.
"""

from vlmgym.settings.checkpoints import CheckpointSettings
from vlmgym.settings.cold_start import ColdStartSettings
from vlmgym.settings.curriculum import CurriculumSettings
from vlmgym.settings.engine import EngineSettings, SamplingSettings
from vlmgym.settings.env_runners import EnvRunnerSettings
from vlmgym.settings.game import CommonRewardSettings, GameSettings, RewardSettings
from vlmgym.settings.grpo import GRPOSettings
from vlmgym.settings.learners import LearnerSettings
from vlmgym.settings.model import ModelSettings
from vlmgym.settings.prompt import PromptSettings
from vlmgym.settings.results import EvaluationSettings
from vlmgym.settings.section import Section
from vlmgym.settings.tracking import AlertSettings, TrackingSettings

__all__ = [
    "AlertSettings",
    "CheckpointSettings",
    "ColdStartSettings",
    "CommonRewardSettings",
    "CurriculumSettings",
    "EngineSettings",
    "EnvRunnerSettings",
    "EvaluationSettings",
    "GRPOSettings",
    "GameSettings",
    "LearnerSettings",
    "ModelSettings",
    "PromptSettings",
    "RewardSettings",
    "SamplingSettings",
    "Section",
    "TrackingSettings",
]
