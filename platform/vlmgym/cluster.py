"""Decides where a job runs: the Ray cluster it joins or starts, the profile that fits, and whether there is room."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import vlmgym
from vlmgym.job import Job, JobError
from vlmgym.planning import Bundle, placement
from vlmgym.settings import EnvRunnerSettings
from vlmgym_envs.names import unknown_name

SOURCE_ROOTS = ("platform", "envs", "policies")
LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


class NodeResources(NamedTuple):
    """What one machine has. custom: resources that it was given by name."""

    cpus: float
    gpus: float
    custom: Mapping[str, float] = MappingProxyType({})


class Resources(NamedTuple):
    """What a cluster has to give; a machine without one is a cluster of its own. nodes: what each machine has."""

    cpus: float
    gpus: float
    nodes: tuple[NodeResources, ...] = ()


def start_ray(num_cpus: int | None = None) -> Resources:
    """Joins the running cluster (RAY_ADDRESS, or one of `ray start`), else starts a small local one.

    A cluster that some other process holds for itself, such as another `vlmgym train`, is left alone.

    num_cpus: of a local one; by default what this process may use.
    Errors: JobError where RAY_ADDRESS names a cluster that does not answer.
    """
    resources = join_cluster()
    if resources is None:
        _start_local(num_cpus or int(local_resources().cpus))
        resources = _cluster_resources()
    return resources


def join_cluster() -> Resources | None:
    """Connects to the running cluster, if there is one. Errors: as `start_ray`."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return _cluster_resources()
    from ray._private.utils import read_ray_address  # where `ray start` left word; Ray has no public name for it

    asked = os.environ.get("RAY_ADDRESS")
    if asked == "local" or not (asked or read_ray_address()):
        return None
    try:
        ray.init(address=asked or "auto", runtime_env=worker_runtime_env(), logging_level="WARNING")
    except ConnectionError as error:
        if not asked:
            return None
        raise JobError(f"no Ray cluster answers at RAY_ADDRESS={asked}") from error
    return _cluster_resources()


def local_resources() -> Resources:
    """The CPUs this process may use, and the GPUs that torch sees."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.exists():
        quota, period = limit.read_text().split()
        cpus = cpus if quota == "max" else min(cpus, max(1, int(quota) // int(period)))
    gpus = 0
    if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists():
        import torch

        gpus = torch.cuda.device_count()
    return Resources(float(cpus), float(gpus))


def choose_profile(profiles: Iterable[str], resources: Resources, forced: str | None = None) -> tuple[str | None, str]:
    """The profile to run, and one line that says why.

    `gpu` where there is a GPU, else `laptop`; no profile for a job file that has none.
    Errors: JobError for a forced profile that does not exist, or where the one that fits does not.
    """
    names = list(profiles)
    if forced is not None:
        if forced not in names:
            raise JobError(
                str(unknown_name("profile", forced, names))
                if names
                else f"profile must be left out, this job has none, got {forced!r}"
            )
        return forced, f"profile {forced}, as asked"
    if not names:
        return None, "this job has no profiles"
    fitting = "gpu" if resources.gpus else "laptop"
    found = f"{resources.gpus:g} GPUs" if resources.gpus else "no GPU"
    if fitting not in names:
        raise JobError(f"{found} in this cluster and no profile {fitting}: choose one of {', '.join(names)}")
    return fitting, f"{found} in this cluster: profile {fitting}"


def check_resources(job: Job, resources: Resources) -> None:
    """Errors: JobError, one line, where the job asks for more than there is."""
    bundles = placement(job)
    shortages = (
        _shortage("CPUs", resources.cpus, {bundle.count_key: bundle.num_actors * bundle.cpus for bundle in bundles}),
        _shortage("GPUs", resources.gpus, {bundle.count_key: bundle.num_actors * bundle.gpus for bundle in bundles}),
    )
    if any(shortages):
        raise JobError("; ".join(filter(None, shortages)))
    nodes = resources.nodes or [NodeResources(resources.cpus, resources.gpus)]
    _check_nodes(bundles, nodes)
    _check_runner_nodes(job.env_runners, nodes)
    if job.grpo.groups < job.learners.count:
        raise JobError(f"grpo.groups must be at least learners.count = {job.learners.count}, got {job.grpo.groups}")


def _shortage(unit: str, available: float, needs: Mapping[str, float]) -> str:
    """What is missing of a kind; empty where nothing is."""
    for knob, need in needs.items():
        if need > available:
            return f"{knob} needs {need:g} {unit}, this cluster has {available:g}"
    total = sum(needs.values())
    if total <= available:
        return ""
    parts = ", ".join(f"{knob} {need:g}" for knob, need in needs.items())
    return f"this job needs {total:g} {unit} ({parts}), this cluster has {available:g}"


def _check_nodes(bundles: Sequence[Bundle], nodes: Sequence[NodeResources]) -> None:
    """An actor cannot be spread over nodes. Errors: JobError where the actors, the largest first, do not find room."""
    free = list(nodes)
    actors = [bundle for bundle in bundles for _ in range(bundle.num_actors)]
    for actor in sorted(actors, key=lambda bundle: (bundle.gpus, bundle.cpus), reverse=True):
        fitting = [i for i, node in enumerate(free) if node.cpus >= actor.cpus and node.gpus >= actor.gpus]
        if not fitting:
            left = max((free[i].gpus, free[i].cpus) for i in range(len(free)))
            raise JobError(
                f"{actor.count_key}: each {actor.role} needs {actor.cpus:g} CPUs and {actor.gpus:g} GPUs on one node; "
                f"of {len(free)} nodes none has them left, at most {left[1]:g} CPUs and {left[0]:g} GPUs"
            )
        tightest = min(fitting, key=lambda i: (free[i].gpus, free[i].cpus))
        free[tightest] = NodeResources(free[tightest].cpus - actor.cpus, free[tightest].gpus - actor.gpus)


def _check_runner_nodes(runners: EnvRunnerSettings, nodes: Sequence[NodeResources]) -> None:
    """Errors: JobError where nodes with what a runner asks for by name are too few for all runners."""
    room = 0
    for node in nodes:
        shares = [int(node.custom.get(name, 0.0) / amount) for name, amount in runners.resources.items()]
        room += min([*shares, runners.max_per_node or runners.count])
    if room < runners.count:
        asked = [f"{amount:g} {name}" for name, amount in runners.resources.items()]
        bound = [f"at most {runners.max_per_node} per node"] if runners.max_per_node else []
        raise JobError(
            f"env_runners.count must be at most {room} on these {len(nodes)} nodes "
            f"({', '.join([*asked, *bound])}), got {runners.count}"
        )


def worker_runtime_env() -> dict[str, Any]:
    """What Ray workers need to import the code that runs here: the source roots of a checkout, else nothing.

    In a working directory that Ray unpacked, workers stand in their own copy, so the roots are relative.
    """
    root = checkout_root()
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    if root is None or "PYTHONPATH" in submitted.get("env_vars", {}):
        return {}
    roots = [name if is_unpacked(root) else str(root / name) for name in SOURCE_ROOTS]
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in SOURCE_ROOTS]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*roots, *others]))}}


def checkout_root() -> Path | None:
    """The folder that the source roots of the running code lie in; None for an installed package."""
    root = Path(vlmgym.__file__).resolve().parents[2]
    return root if all((root / name).is_dir() for name in SOURCE_ROOTS) else None


def is_unpacked(folder: Path) -> bool:
    """Whether Ray unpacked it from a working directory that was uploaded; Ray deletes it some time after the job."""
    return any(re.match(r"_ray_pkg_", part) for part in folder.parts)


def _start_local(num_cpus: int) -> None:
    import ray

    _keep_token_out_of_home()
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=False,
        runtime_env=worker_runtime_env(),
        log_to_driver=False,
        logging_level="ERROR",
    )


def _keep_token_out_of_home() -> None:
    """Gives a local cluster a token of its own; Ray would write one to ~/.ray for clusters to come."""
    chosen = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not chosen and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _cluster_resources() -> Resources:
    import ray

    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(
        total.get("CPU", 0.0),
        total.get("GPU", 0.0),
        tuple(NodeResources(node.get("CPU", 0.0), node.get("GPU", 0.0), _custom(node)) for node in nodes),
    )


def _custom(node: Mapping[str, float]) -> dict[str, float]:
    """Without what Ray itself counts: CPU, memory, node:IP, accelerator_type:X and the like."""
    own = ("CPU", "GPU", "memory", "object_store_memory")
    return {name: amount for name, amount in node.items() if name not in own and ":" not in name}
