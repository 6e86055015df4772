"""Decides where engines run, beside the learners or in turn with them, and by which transport weights get there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from vlmgym_policies.engine import ENGINES, ENGINES_WITHOUT_WEIGHTS, missing_extra

Bundle = dict[str, float]
OBJECT_STORE = "object_store"


class LearnerPlace(NamedTuple):
    """Where a learner runs. gpu: what CUDA_VISIBLE_DEVICES calls its GPU on that node; None without one."""

    node_id: str
    gpu: str | None


def check_engines(config: Any) -> None:
    """Raises ValueError for engines that make no sense in a `GRPOConfig`."""
    trainable = sorted(ENGINES.keys() - ENGINES_WITHOUT_WEIGHTS)
    if config.engine_type not in trainable:
        raise ValueError(f"engine_type must be one of {', '.join(trainable)}, got {config.engine_type!r}")
    if missing := missing_extra(config.engine_type):
        raise ValueError(missing)
    if config.num_engines < 1:
        raise ValueError(f"num_engines must be at least 1, got {config.num_engines}")
    if config.tensor_parallel > 1 and config.engine_type != "vllm":
        raise ValueError(f"tensor_parallel must be 1 for engine {config.engine_type}, got {config.tensor_parallel}")
    if config.engine_placement == "colocated":
        _check_colocated(config)
    elif config.engine_placement != "disaggregated":
        raise ValueError(f"engine_placement must be disaggregated or colocated, got {config.engine_placement!r}")
    elif config.num_gpus_per_engine and config.num_gpus_per_engine != config.tensor_parallel > 1:
        raise ValueError(
            f"num_gpus_per_engine must be tensor_parallel = {config.tensor_parallel}, a GPU per worker, "
            f"got {config.num_gpus_per_engine:g}"
        )


def engine_bundles(config: Any, bundles: Sequence[Mapping[str, float]]) -> list[Bundle]:
    """RLlib's `bundles` with room for the engines: one more each, or in those of the learners they share GPUs with."""
    all_bundles = [dict(bundle) for bundle in bundles]
    if config.engine_placement == "disaggregated":
        engine = {"CPU": config.num_cpus_per_engine, "GPU": config.num_gpus_per_engine}
        return [*all_bundles, *(dict(engine) for _ in range(config.num_engines))]
    for index in _shared_bundles(config, len(all_bundles)):
        all_bundles[index]["CPU"] = all_bundles[index].get("CPU", 0) + config.num_cpus_per_engine
    return all_bundles


def weights_transport(config: Any) -> str:
    """How weights get from learners to engines: "ipc" on a shared GPU, "nccl" between GPUs, else "object_store"."""
    if config.engine_type != "vllm" or not config.num_gpus_per_learner:
        return OBJECT_STORE
    if config.engine_placement == "colocated":
        return "ipc"
    return "nccl" if config.num_gpus_per_engine else OBJECT_STORE


def engine_options(config: Any) -> dict[str, Any]:
    """What the engines' constructor is given."""
    options = {"path": config.model_config["path"], "dtype": config.model_config["dtype"]}
    on_gpu = config.num_gpus_per_engine or (config.engine_placement == "colocated" and config.num_gpus_per_learner)
    if config.engine_type == "vllm":
        transport = weights_transport(config)
        options["transport"] = "shared_memory" if transport == OBJECT_STORE else transport
        options["tensor_parallel"] = config.tensor_parallel
        options["can_sleep"] = config.engine_placement == "colocated"
    elif config.engine_type == "hf" and on_gpu:
        options["device"] = "cuda"
    return {**options, **config.engine_options}


def learner_places(learner_group: Any) -> list[LearnerPlace]:
    """Where the learners run, in order of their rank."""
    return [result.get() for result in learner_group.foreach_learner(_place)]


def actor_options(config: Any, index: int, places: Sequence[LearnerPlace]) -> dict[str, Any]:
    """Ray's options for the actor of engine `index`. A colocated one goes to its learners' node and sees their GPUs."""
    if config.engine_placement == "disaggregated":
        return {"num_cpus": config.num_cpus_per_engine, "num_gpus": config.num_gpus_per_engine}
    width = config.tensor_parallel
    shared = places[index * width : (index + 1) * width]
    if len({place.node_id for place in shared}) > 1:
        raise RuntimeError(f"engine {index} needs its {width} learners on one node, they are on several")
    options: dict[str, Any] = {
        "num_cpus": config.num_cpus_per_engine,
        "num_gpus": 0,
        "scheduling_strategy": _beside_learner(config, index, places),
    }
    if gpus := [place.gpu for place in shared if place.gpu is not None]:
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        options["runtime_env"] = {"env_vars": visible}
    return options


def _check_colocated(config: Any) -> None:
    num_learners = max(1, config.num_learners)
    if config.num_engines * config.tensor_parallel != num_learners:
        raise ValueError(
            f"colocated engines share the learners' GPUs: num_engines x tensor_parallel must be {num_learners}, "
            f"got {config.num_engines} x {config.tensor_parallel}"
        )
    if config.num_gpus_per_engine:
        raise ValueError(
            f"colocated engines reserve no GPU: num_gpus_per_engine must be 0, got {config.num_gpus_per_engine:g}"
        )
    if config.max_weights_lag:
        raise ValueError(
            "colocated engines sleep while learners update, so nothing can be sampled meanwhile: "
            f"max_weights_lag must be 0, got {config.max_weights_lag}"
        )


def _shared_bundles(config: Any, num_bundles: int) -> list[int]:
    """Per colocated engine the bundle of its first learner: RLlib puts the driver first, the learners last."""
    if config.num_learners == 0:
        return [0] * config.num_engines
    return [num_bundles - config.num_learners + i * config.tensor_parallel for i in range(config.num_engines)]


def _place(learner: Any) -> LearnerPlace:
    device = learner._device
    gpu = None
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        index = device.index or 0
        gpu = visible.split(",")[index] if visible else str(index)
    return LearnerPlace(ray.get_runtime_context().get_node_id(), gpu)


def _beside_learner(config: Any, index: int, places: Sequence[LearnerPlace]) -> Any:
    """On the node of the engine's learners; inside a placement group, such as Tune's, in a bundle with room for it."""
    node_id = places[index * config.tensor_parallel].node_id
    group = ray.util.get_current_placement_group()
    if group is None:
        return NodeAffinitySchedulingStrategy(node_id, soft=False)
    nodes = placement_group_table(group)["bundles_to_node_id"]
    here = [bundle for bundle in _shared_bundles(config, len(nodes)) if nodes[bundle] == node_id]
    before = sum(places[i * config.tensor_parallel].node_id == node_id for i in range(index))
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=here[before])
