"""Decides who `--policy` names, and builds the engine that answers for it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vlmgym import model_dirs
from vlmgym.errors import BadInput
from vlmgym.evals.log import Policy
from vlmgym_envs.core import Game
from vlmgym_envs.names import unknown_name
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Engine, make_engine
from vlmgym_policies.history import History
from vlmgym_policies.prompting import Observation

OTHER_FORMS = ("a model, checkpoint or run directory", "openai:MODEL@URL", "module:function")
_ENDPOINT = re.compile(r"openai:(?P<model>[^@]+|.+(?=@https?://))(?:@(?P<url>https?://\S+))?")
_FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)")


def find_policy(spec: str, game: Game[Any, Any, Any]) -> Policy:
    """Who a spec names: a teacher of the game, an endpoint, a directory or a function, looked for in this order.

    Errors: BadInput where it names nobody.
    """
    if spec in game.teachers:
        return Policy(spec=spec, kind="teacher", name=spec)
    if spec.startswith("openai:"):
        return _endpoint(spec)
    if spec and Path(spec).is_dir():
        return _model(spec)
    if found := _FUNCTION.fullmatch(spec):
        load_function(spec)
        source = inspect.getsourcefile(importlib.import_module(found["module"]))
        fingerprint = _fingerprint(Path(source).read_bytes()) if source else None
        return Policy(spec=spec, kind="function", name=spec, fingerprint=fingerprint)
    if os.sep in spec:
        raise BadInput(f"policy {spec!r} is no directory")
    raise BadInput(str(unknown_name("policy", spec, [*game.teachers, *OTHER_FORMS])))


@asynccontextmanager
async def open_engine(
    policy: Policy, game: Game[Any, Any, Any], *, concurrency: int, timeout_s: float, max_retries: int
) -> AsyncIterator[Engine]:
    """The engine that answers for a policy. concurrency: requests to an endpoint, or prompts of a batch, at a time.

    Errors: BadInput for a model that cannot be loaded, and for an endpoint without a key.
    """
    try:
        engine = _engine(policy, game, concurrency=concurrency, timeout_s=timeout_s, max_retries=max_retries)
    except ValueError as error:
        raise BadInput(f"policy {policy.spec!r}: {error}") from error
    try:
        yield engine
    finally:
        if policy.kind == "endpoint":
            from vlmgym_policies.engines.openai import OpenAIEngine

            assert isinstance(engine, OpenAIEngine)
            await engine.close()


def load_function(spec: str) -> Callable[..., Any]:
    """The function that "module:function" names; modules in the working directory are found.

    Errors: BadInput where there is no such module or function. What the module raises is not caught.
    """
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise BadInput(f"policy {spec!r}: no module named {error.name!r}") from error
        raise
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise BadInput(f"policy {spec!r}: {unknown_name('function', part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise BadInput(f"policy {spec!r}: {name} must be callable, got {type(found).__name__}")
    return found


def trained_max_tokens(policy: Policy) -> int | None:
    """The response bound of the job that trained a model; None for a model that lies in no run directory."""
    return model_dirs.trained_max_tokens(Path(policy.name)) if policy.kind == "model" else None


def trained_observation(policy: Policy) -> Observation | None:
    """What prompts showed where the model was trained; None for a model that lies in no run directory."""
    return model_dirs.trained_observation(Path(policy.name)) if policy.kind == "model" else None


def history_of(policy: Policy, turns: str | None = None, pictures: str | None = None) -> History:
    """What prompts hold of earlier steps: as where the model was trained, else nothing, unless it is asked for.

    Errors: BadInput for what is neither a number nor all.
    """
    trained = model_dirs.trained_history(Path(policy.name)) if policy.kind == "model" else None
    asked = {"turns": turns, "pictures": pictures}
    given: dict[str, Any] = {name: text for name, text in asked.items() if text is not None}
    given = {name: int(text) if text.isdecimal() else text for name, text in given.items()}
    try:
        return replace(trained or History(), **given)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _engine(
    policy: Policy, game: Game[Any, Any, Any], *, concurrency: int, timeout_s: float, max_retries: int
) -> Engine:
    match policy.kind:
        case "teacher":
            return make_engine("scripted", writer=Demonstrator(game, {policy.name: 1.0}))
        case "endpoint":
            options = {"concurrency": concurrency, "timeout_s": timeout_s, "max_retries": max_retries}
            return make_engine("openai", model=policy.name, url=policy.url, **options)
        case "model":
            return make_engine("hf", path=policy.name, max_batch_size=concurrency, **policy.engine)
        case "function":
            return make_engine("function", function=load_function(policy.name), max_batch_size=concurrency)


def _endpoint(spec: str) -> Policy:
    found = _ENDPOINT.fullmatch(spec)
    if found is None:
        raise BadInput(f"policy must be openai:MODEL@URL with a URL that starts with http:// or https://, got {spec!r}")
    return Policy(spec=spec, kind="endpoint", name=found["model"], url=found["url"])


def _model(spec: str) -> Policy:
    try:
        path = model_dirs.find_model_dir(Path(spec))
    except ValueError as error:
        raise BadInput(f"policy {error}") from error
    import torch

    on_gpu = torch.cuda.is_available()
    engine = {"device": "cuda" if on_gpu else "cpu", "dtype": "bfloat16" if on_gpu else "float32"}
    fingerprint = model_dirs.model_fingerprint(path)
    return Policy(spec=spec, kind="model", name=str(path), fingerprint=fingerprint, engine=engine)


def _fingerprint(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
