"""What tests of several packages share: a game, tiny models made once, one small Ray session."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vlmgym_envs.registry import make_game
from vlmgym_policies.baselines import Demonstrator


@pytest.fixture(scope="session")
def game():
    return make_game("shisen_sho", level="tiny")


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, game) -> Callable[[int], Path]:
    """Model directories by seed, each made once."""
    from vlmgym_policies.tiny import make_tiny_vlm

    made: dict[int, Path] = {}

    def make(seed: int = 0) -> Path:
        if seed not in made:
            demonstrator = Demonstrator(game, {"solver": 1.0})
            rng = np.random.default_rng(0)
            responses = [demonstrator.demonstrate(game.mid_game(i), rng) for i in range(200)]
            path = tmp_path_factory.mktemp("models") / f"tiny-{seed}"
            made[seed] = make_tiny_vlm(path, prompts=[game.prompt], responses=responses, seed=seed)
        return made[seed]

    return make


@pytest.fixture(scope="session")
def qwen2_5_vl(tmp_path_factory: pytest.TempPathFactory, game) -> Path:
    from architectures import make_qwen2_5_vl

    return make_qwen2_5_vl(tmp_path_factory.mktemp("models") / "qwen2_5_vl", [game.prompt])


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory, game) -> Path:
    from architectures import make_llava

    return make_llava(tmp_path_factory.mktemp("models") / "llava", [game.prompt])


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with four logical CPUs, a bounded object store and a temporary directory of its own."""
    import ray

    from vlmgym.cluster import worker_runtime_env

    folder = tempfile.mkdtemp(prefix="vg-", dir="/tmp")  # a longer path would not fit into a socket's name
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=256 * 2**20,
        include_dashboard=False,
        runtime_env=worker_runtime_env(),
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_config(make_model, ray_session):
    """A small GRPO run: 4 groups of 3 on the tiny level, one remote runner, one engine."""

    def make(config=None, **env_config):
        from vlmgym.grpo.config import GRPOConfig

        env_config = {"game": "shisen_sho", "level": "tiny", "group_size": 3, **env_config}
        return (
            (config or GRPOConfig())
            .environment(env_config=env_config)
            .vlm(str(make_model(0)))
            .training(lr=1e-3, num_groups_per_train_batch=4, micro_batch_tokens=256)
            .sampling(max_tokens=12)
            .env_runners(num_env_runners=1, num_envs_per_env_runner=4, num_cpus_per_env_runner=0.5)
            .learners(num_cpus_per_learner=0.5)
            .engines(num_cpus_per_engine=0.5)
            .debugging(seed=1, log_level="ERROR")
        )

    return make


@pytest.fixture
def weights_of():
    """The policy's weights on each learner of an algorithm, as arrays by name."""

    def read(algorithm):
        results = algorithm.learner_group.foreach_learner(
            lambda learner: {k: v.numpy() for k, v in learner.module["policy"].unwrapped().weights().items()}
        )
        return [result.get() for result in results]

    return read
