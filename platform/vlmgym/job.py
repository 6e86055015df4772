"""Decides what a job is: a YAML file, one of its profiles and some overrides become one validated value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from vlmgym.errors import BadInput
from vlmgym.settings import (
    CheckpointSettings,
    ColdStartSettings,
    CommonRewardSettings,
    EngineSettings,
    EnvRunnerSettings,
    EvaluationSettings,
    GameSettings,
    GRPOSettings,
    LearnerSettings,
    ModelSettings,
    PromptSettings,
    SamplingSettings,
    Section,
    TrackingSettings,
)
from vlmgym.settings.game import Teacher
from vlmgym.settings.mixture import check_mixture, fill_rewards
from vlmgym.yaml12 import parse_yaml, write_yaml
from vlmgym_envs.names import unknown_name

PROFILES = "profiles"
LOCAL_RUNS = "runs"


class JobError(BadInput):
    """A job that cannot run as it is written; the text is one line for the person who wrote it."""


class Job(Section):
    """Everything that decides a training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run directory")
    seed: int = Field(0, ge=0, description="of everything random")
    output_dir: str = Field("runs", min_length=1, description="holds the run directories: a path, or a URI of fsspec")
    max_restarts: int = Field(3, ge=0, description="how often a run that fails goes on by itself from a checkpoint")
    game: GameSettings | None = Field(None, description="the one game that is played")
    games: Annotated[tuple[GameSettings, ...], Field(strict=False)] = Field((), description="or several, mixed")
    reward: CommonRewardSettings = CommonRewardSettings()
    prompt: PromptSettings = PromptSettings()
    model: ModelSettings
    sampling: SamplingSettings = SamplingSettings()
    engine: EngineSettings = EngineSettings()
    env_runners: EnvRunnerSettings = EnvRunnerSettings()
    learners: LearnerSettings = LearnerSettings()
    cold_start: ColdStartSettings | None = None
    grpo: GRPOSettings = GRPOSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def run_name(self) -> str:
        return self.name if self.seed == 0 else f"{self.name}-seed{self.seed}"

    @property
    def run_dir(self) -> Path:
        """Where results are written: `runs/shisen`, or `runs/shisen-seed1` for another seed than 0.

        Where output_dir is a URI, a folder in LOCAL_RUNS, of which `location` holds a copy.
        """
        return Path(LOCAL_RUNS if self.is_remote else self.output_dir) / self.run_name

    @property
    def location(self) -> str:
        """Where results are kept: the run directory, or a URI."""
        return f"{self.output_dir.rstrip('/')}/{self.run_name}" if self.is_remote else str(self.run_dir)

    @property
    def is_remote(self) -> bool:
        return "://" in self.output_dir

    @property
    def mixture(self) -> tuple[GameSettings, ...]:
        """The games that are played; one game is a mixture of one."""
        return self.games if self.game is None else (self.game,)

    def teacher(self, game: GameSettings) -> Teacher:
        """Who demonstrates a game of the mixture, where there is a cold start."""
        assert self.cold_start is not None, "the job has no cold start"
        return self.cold_start.teacher if game.teacher is None else game.teacher

    @model_validator(mode="before")
    @classmethod
    def _fill_rewards(cls, values: Any) -> Any:
        return fill_rewards(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.game is None) == (not self.games):
            raise ValueError("one of game and games is required, and only one")
        check_mixture(self.mixture)
        if self.learners.offload_reference and (self.model.lora is not None or self.grpo.kl_coeff == 0):
            raise ValueError(
                "learners.offload_reference needs a reference of its own: grpo.kl_coeff above 0, no model.lora"
            )
        if self.cold_start is not None and self.cold_start.data is None:
            for game in self.mixture:
                self._check_teacher(game)
        if self.evaluation.serve_replicas and self.engine.placement == "colocated":
            raise ValueError("evaluation.serve_replicas must be 0 where engines have no resources of their own to copy")
        return self

    def _check_teacher(self, game: GameSettings) -> None:
        try:
            game.check_teacher(self.teacher(game))
        except ValueError as error:
            raise ValueError(f"cold_start.teacher: {error}") from None


@dataclass(frozen=True)
class JobFile:
    """A job file as it was read. values: without the profiles. profiles: partial jobs by name."""

    path: Path
    values: Mapping[str, Any]
    profiles: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Errors: JobError where there is no such file, it is not YAML, or holds anything but mappings."""
        try:
            document = parse_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise JobError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise JobError(f"{path}: {error}") from error
        if not isinstance(document, dict):
            raise JobError(f"{path}: a job must be a mapping, got {_shown(document)}")
        profiles = document.pop(PROFILES, None) or {}
        if not isinstance(profiles, dict) or not all(isinstance(profile, dict) for profile in profiles.values()):
            raise JobError(f"{path}: {PROFILES} must map names to partial jobs, got {_shown(profiles)}")
        return cls(Path(path), document, profiles)

    def resolve(self, profile: str | None = None, overrides: Sequence[str] = ()) -> Job:
        """The job: the file, then the profile over it, then each `a.b=value`, validated.

        Errors: JobError.
        """
        values: Any = self.values
        try:
            if profile is not None:
                if profile not in self.profiles:
                    raise unknown_name("profile", profile, self.profiles)
                values = _merged(Job, values, self.profiles[profile])
            for override in overrides:
                values = _with_override(values, override)
            return Job.model_validate(values)
        except ValidationError as error:
            hint = f" (or choose a profile: {', '.join(self.profiles)})" if self.profiles and profile is None else ""
            raise JobError(f"{self.path}: {_told(error)}{hint}") from None
        except ValueError as error:
            raise JobError(f"{self.path}: {error}") from error


def load_job(path: str | Path, profile: str | None = None, overrides: Sequence[str] = ()) -> Job:
    """Reads a job file; `JobFile.resolve` says how. Errors: JobError."""
    return JobFile.read(path).resolve(profile, overrides)


def save_job(job: Job, path: str | Path) -> None:
    """Writes the resolved job; `load_job` gives it back equal."""
    write_yaml(job.model_dump(mode="json"), Path(path), comment="The resolved job of this run: vlmgym train FILE")


def _merged(section: type[BaseModel], values: Any, change: Mapping[str, Any]) -> Any:
    """`change` over `values`. Sections are merged; anything else, free mappings included, is replaced."""
    if not isinstance(values, Mapping):
        return change
    merged = dict(values)
    for key, value in change.items():
        inner = _section_of(section, key)
        merge = inner is not None and isinstance(value, Mapping) and key in merged
        merged[key] = _merged(inner, merged[key], value) if merge and inner else value
    return merged


def _section_of(section: type[BaseModel], key: Any) -> type[BaseModel] | None:
    """The section that field `key` holds, if it holds one."""
    annotation = section.model_fields[key].annotation if key in section.model_fields else None
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _with_override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """`values` with `a.b=value` set; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"--set takes key.key=value, got {override!r}")
    changed = dict(values)
    place = changed
    for key in keys[:-1]:
        inner = place.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            raise ValueError(f"--set {path}: {key} holds a value, no keys")
        place[key] = dict(inner or {})
        place = place[key]
    place[keys[-1]] = parse_yaml(text)
    return changed


_MUST = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, in one line, and how many more there are."""
    first, *others = error.errors(include_url=False)
    path = ".".join(map(str, first["loc"]))
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        text = _unknown_key(first["loc"])
    elif first["type"] == "missing":
        text = f"{path} is required"
    elif first["type"] == "value_error":
        text = f"{path}: {context['error']}" if path else str(context["error"])
    else:
        must = _MUST.get(first["type"], first["msg"]).format(**context)
        text = f"{path} {must}, got {_shown(first['input'])}"
    return f"{text} (and {len(others)} more)" if others else text


def _unknown_key(path: Sequence[int | str]) -> str:
    *parents, key = map(str, path)
    section: type[BaseModel] = Job
    for parent in parents:
        section = _section_of(section, parent) or section
    near = get_close_matches(key, section.model_fields, n=1)
    where = ".".join(parents) or "a job"
    hint = (
        f"did you mean {'.'.join([*parents, near[0]])!r}?" if near else f"{where} has {', '.join(section.model_fields)}"
    )
    return f"unknown key {'.'.join([*parents, key])!r}, {hint}"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
