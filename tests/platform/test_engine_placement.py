from types import SimpleNamespace

import pytest
import ray

from vlmgym.engine_placement import (
    OBJECT_STORE,
    LearnerPlace,
    actor_options,
    check_engines,
    engine_bundles,
    engine_options,
    weights_transport,
)
from vlmgym.grpo.algorithm import GRPO
from vlmgym.grpo.config import GRPOConfig
from vlmgym_policies import engine


@pytest.fixture(autouse=True)
def vllm_is_there(monkeypatch):
    """Nothing here starts an engine."""
    monkeypatch.setattr(engine, "missing_extra", lambda type: None)
    monkeypatch.setattr("vlmgym.engine_placement.missing_extra", lambda type: None)


def config(*, learners=0, learner_gpus=0, **engines):
    made = GRPOConfig().environment(env_config={"game": "shisen_sho", "level": "tiny"}).vlm("anywhere")
    made.learners(num_learners=learners, num_gpus_per_learner=learner_gpus, num_cpus_per_learner=2)
    return made.engines(**{"num_cpus_per_engine": 3, **engines})


COLOCATED = {"engine_type": "vllm", "engine_placement": "colocated"}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (config(engine_type="vlm"), "engine_type must be one of hf, scripted, vllm, got 'vlm'"),
        (config(num_engines=0), "num_engines must be at least 1, got 0"),
        (config(tensor_parallel=2), "tensor_parallel must be 1 for engine hf, got 2"),
        (config(engine_placement="beside"), "must be disaggregated or colocated, got 'beside'"),
        (
            config(engine_type="vllm", tensor_parallel=4, num_gpus_per_engine=2),
            "num_gpus_per_engine must be tensor_parallel = 4, a GPU per worker, got 2",
        ),
        (
            config(learners=4, num_engines=1, tensor_parallel=2, **COLOCATED),
            "num_engines x tensor_parallel must be 4, got 1 x 2",
        ),
        (config(num_gpus_per_engine=1, **COLOCATED), "colocated engines reserve no GPU"),
        (config(**COLOCATED).training(max_weights_lag=1), "max_weights_lag must be 0, got 1"),
    ],
)
def test_engines_that_make_no_sense_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        check_engines(made)


def test_a_missing_vllm_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "vlmgym.engine_placement.missing_extra", lambda type: f"engine {type} needs vLLM: pip install X"
    )
    with pytest.raises(ValueError, match="engine vllm needs vLLM: pip install X"):
        config(engine_type="vllm").validate()


@pytest.mark.parametrize(
    ("made", "transport"),
    [
        (config(learners=2, learner_gpus=1, num_engines=2, **COLOCATED), "ipc"),
        (config(learners=2, learner_gpus=1, num_gpus_per_engine=1, engine_type="vllm"), "nccl"),
        (config(learners=2, learner_gpus=1, engine_type="vllm"), OBJECT_STORE),
        (config(engine_type="vllm", num_gpus_per_engine=1), OBJECT_STORE),
        (config(learners=2, learner_gpus=1, num_gpus_per_engine=1), OBJECT_STORE),
        (config(**COLOCATED), OBJECT_STORE),
    ],
)
def test_the_placement_decides_the_transport(made, transport):
    assert weights_transport(made) == transport
    options = engine_options(made)
    if made.engine_type == "vllm":
        assert options["transport"] == ("shared_memory" if transport == OBJECT_STORE else transport)
        assert options["can_sleep"] == (made.engine_placement == "colocated")


def test_an_embedded_engine_runs_on_its_gpu_where_it_has_one():
    assert engine_options(config(num_gpus_per_engine=1))["device"] == "cuda"
    assert engine_options(config(engine_placement="colocated", learner_gpus=1))["device"] == "cuda"
    assert "device" not in engine_options(config())


DRIVER = {"CPU": 1, "GPU": 0}
RUNNER = {"CPU": 1, "GPU": 0}
LEARNER = {"CPU": 2, "GPU": 1}


def test_engines_of_their_own_get_bundles_of_their_own():
    made = config(learners=2, learner_gpus=1, num_engines=2, num_gpus_per_engine=1, engine_type="vllm")
    engine = {"CPU": 3, "GPU": 1}
    given = [DRIVER, RUNNER, LEARNER, LEARNER]
    assert engine_bundles(made, given) == [*given, engine, engine]


@pytest.mark.parametrize(
    ("tensor_parallel", "added"), [(1, [0, 0, 3, 3, 3, 3]), (2, [0, 0, 3, 0, 3, 0]), (4, [0, 0, 3, 0, 0, 0])]
)
def test_colocated_engines_are_in_the_bundle_of_their_first_learner(tensor_parallel, added):
    made = config(learners=4, num_engines=4 // tensor_parallel, tensor_parallel=tensor_parallel, **COLOCATED)
    bundles = engine_bundles(made, [DRIVER, RUNNER, *[LEARNER] * 4])
    assert [bundle["CPU"] for bundle in bundles] == [n + m for n, m in zip([1, 1, 2, 2, 2, 2], added, strict=True)]
    assert [bundle["GPU"] for bundle in bundles] == [0, 0, 1, 1, 1, 1]


def test_an_engine_that_is_colocated_with_the_driver_is_in_its_bundle():
    assert engine_bundles(config(**COLOCATED), [DRIVER, RUNNER]) == [{"CPU": 4, "GPU": 0}, RUNNER]


def test_the_request_of_the_whole_algorithm_has_room_for_engines():
    made = config(learners=2, num_engines=2).env_runners(num_env_runners=1).training(num_groups_per_train_batch=4)
    bundles = GRPO.default_resource_request(made).bundles
    alone = sum(bundle.get("CPU", 0) for bundle in bundles)
    assert sum(bundle == {"CPU": 3.0} for bundle in bundles) == 2
    made.engines(engine_placement="colocated")
    colocated = GRPO.default_resource_request(made).bundles
    assert sum(bundle.get("CPU", 0) for bundle in colocated) == alone and len(colocated) == len(bundles) - 2


class Seen:
    def what(self):
        import os

        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_colocated_engines_see_the_gpus_of_their_learners_on_their_node(ray_session):
    """Names of GPUs are given out, none is touched."""
    node = ray.get_runtime_context().get_node_id()
    places = [LearnerPlace(node, gpu) for gpu in ("0", "2", "5", "7")]
    made = config(learners=4, learner_gpus=1, num_engines=2, tensor_parallel=2, num_cpus_per_engine=0, **COLOCATED)
    actors = [ray.remote(**actor_options(made, i, places))(Seen).remote() for i in range(2)]
    assert ray.get([actor.what.remote() for actor in actors]) == [(node, "0,2"), (node, "5,7")]
    for actor in actors:
        ray.kill(actor)


def test_an_engine_cannot_be_spread_over_nodes():
    made = config(learners=2, tensor_parallel=2, **COLOCATED)
    with pytest.raises(RuntimeError, match="engine 0 needs its 2 learners on one node"):
        actor_options(made, 0, [LearnerPlace("a", "0"), LearnerPlace("b", "0")])


def test_inside_a_placement_group_engines_take_the_bundles_of_their_learners(ray_session, monkeypatch):
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready())
    monkeypatch.setattr("ray.util.get_current_placement_group", lambda: group)
    node = ray.get_runtime_context().get_node_id()
    made = config(learners=2, num_engines=2, **COLOCATED)
    strategies = [actor_options(made, i, [LearnerPlace(node, None)] * 2)["scheduling_strategy"] for i in range(2)]
    assert [strategy.placement_group_bundle_index for strategy in strategies] == [1, 2]
    ray.util.remove_placement_group(group)


def test_places_come_from_the_learners_themselves(monkeypatch, ray_session):
    from vlmgym import engine_placement

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,6")
    learner = SimpleNamespace(_device=SimpleNamespace(type="cuda", index=1))
    node = ray.get_runtime_context().get_node_id()
    assert engine_placement._place(learner) == LearnerPlace(node, "6")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert engine_placement._place(learner).gpu == "1"
    assert engine_placement._place(SimpleNamespace(_device=SimpleNamespace(type="cpu", index=None))).gpu is None
