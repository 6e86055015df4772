"""Decides the model that a run starts from: the one that the job names, or a tiny one that is made for its games."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlmgym.job import Job
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.prompting import instruction
from vlmgym_policies.tiny import make_tiny_vlm

NUM_TOKENIZER_RESPONSES = 1000


def start_model(job: Job, run_dir: Path) -> str:
    """A path or a name on the hub; a tiny model is made once per run, in its directory."""
    if job.model.path is not None:
        return job.model.path
    path = run_dir / "model"
    if not path.exists():
        texts = list(_texts(job))
        partial = path.with_suffix(".partial")
        prompts, responses = {prompt for prompt, _ in texts}, [response for _, response in texts]
        make_tiny_vlm(partial, prompts=sorted(prompts), responses=responses, seed=job.seed)
        os.replace(partial, path)
    return str(path)


def _texts(job: Job) -> Iterator[tuple[str, str]]:
    """Prompts and responses of every game and level of training, illegal moves included, for the tokenizer."""
    rng = np.random.default_rng(job.seed)
    for settings in job.mixture:
        levels = settings.knobs_in_training()
        for knobs in levels:
            game = settings.make(**knobs)
            demonstrator = Demonstrator(game, {"legal_random": 0.5, "random": 0.5})
            prompt = instruction(game, job.prompt.observation)
            for seed in rng.integers(2**62, size=-(-NUM_TOKENIZER_RESPONSES // len(levels))):
                yield prompt, demonstrator.demonstrate(game.mid_game(int(seed)), rng)
