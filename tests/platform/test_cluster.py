import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmgym.cluster import (
    NodeResources,
    Resources,
    check_resources,
    choose_profile,
    local_resources,
    worker_runtime_env,
)
from vlmgym.job import JobError, load_job

WriteJob = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
LAPTOP = Resources(cpus=2, gpus=0)
SERVER = Resources(cpus=64, gpus=8)


def test_profile_follows_the_gpus() -> None:
    assert choose_profile(["gpu", "laptop"], LAPTOP) == ("laptop", "no GPU in this cluster: profile laptop")
    assert choose_profile(["gpu", "laptop"], SERVER) == ("gpu", "8 GPUs in this cluster: profile gpu")


def test_a_forced_profile_wins_and_no_profiles_mean_none() -> None:
    assert choose_profile(["gpu", "laptop"], LAPTOP, "gpu")[0] == "gpu"
    assert choose_profile([], SERVER) == (None, "this job has no profiles")


@pytest.mark.parametrize(
    ("profiles", "forced", "message"),
    [
        (["gpu", "laptop"], "lptop", "unknown profile 'lptop', did you mean 'laptop'? Known: gpu, laptop"),
        (["gpu"], None, "no GPU in this cluster and no profile laptop: choose one of gpu"),
        ([], "gpu", "profile must be left out, this job has none, got 'gpu'"),
    ],
)
def test_a_profile_that_is_not_there(profiles: list[str], forced: str | None, message: str) -> None:
    with pytest.raises(JobError) as error:
        choose_profile(profiles, LAPTOP, forced)
    assert message in str(error.value)


FITTING = "env_runners: {count: 1}\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("learners: {count: 64}", "learners.count needs 64 CPUs, this cluster has 2"),
        ("learners: {count: 1, num_gpus: 1}", "this job needs 3 CPUs"),
        ("engine: {replicas: 3}", "engine.replicas needs 3 CPUs, this cluster has 2"),
        ("engine: {num_gpus: 0.5}", "engine.replicas needs 0.5 GPUs, this cluster has 0"),
        (
            "learners: {count: 4, num_gpus: 1}",
            "learners.count needs 4 CPUs, this cluster has 2; learners.count needs 4 GPUs, this cluster has 0",
        ),
        (
            "engine: {replicas: 2}",
            "this job needs 3 CPUs (engine.replicas 2, env_runners.count 1), this cluster has 2",
        ),
    ],
)
def test_a_job_that_needs_too_much_is_refused_in_one_line(write_job: WriteJob, more: str, message: str) -> None:
    job = load_job(write_job(FITTING + more))
    with pytest.raises(JobError) as error:
        check_resources(job, LAPTOP)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_job_that_fits_exactly_is_accepted(write_job: WriteJob) -> None:
    check_resources(load_job(write_job(FITTING)), LAPTOP)
    check_resources(load_job(write_job("learners: {count: 8, num_gpus: 1}")), SERVER)


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        (
            [(8, 2), (8, 2)],
            "engine.replicas: each engine needs 2 CPUs and 4 GPUs on one node; of 2 nodes none has them",
        ),
        ([(8, 4), (0, 0)], None),
        ([(1, 4), (7, 0)], "at most 1 CPUs and 4 GPUs"),
        ([(2, 4), (1, 0)], None),
        ([(2, 4), (0.5, 0), (0.5, 0)], "env_runners.count: each env runner needs 1 CPUs and 0 GPUs on one node"),
    ],
)
def test_an_actor_needs_its_resources_on_one_node(
    write_job: WriteJob, nodes: list[tuple[float, float]], refused: str | None
) -> None:
    """An engine of 4 GPUs and 2 CPUs, and a runner of 1 CPU."""
    path = write_job(FITTING + "engine: {type: vllm, num_cpus: 2, num_gpus: 4, tensor_parallel: 4}")
    cluster = Resources(sum(c for c, _ in nodes), sum(g for _, g in nodes), tuple(NodeResources(*n) for n in nodes))
    if refused is None:
        check_resources(load_job(path), cluster)
        return
    with pytest.raises(JobError) as error:
        check_resources(load_job(path), cluster)
    assert refused in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("runners", "custom", "refused"),
    [
        ("count: 4, max_per_node: 2", [{}, {}], None),
        ("count: 5, max_per_node: 2", [{}, {}], "at most 4 on these 2 nodes (at most 2 per node), got 5"),
        ("count: 4, resources: {games: 0.5}", [{"games": 2.0}, {}], None),
        ("count: 5, resources: {games: 0.5}", [{"games": 2.0}, {}], "at most 4 on these 2 nodes (0.5 games), got 5"),
        (
            "count: 2, resources: {games: 1}, max_per_node: 1",
            [{"games": 2.0}, {}],
            "at most 1 on these 2 nodes (1 games, at most 1 per node), got 2",
        ),
    ],
)
def test_runners_need_nodes_that_may_take_them(
    write_job: WriteJob, runners: str, custom: list[dict[str, float]], refused: str | None
) -> None:
    nodes = tuple(NodeResources(8, 0, named) for named in custom)
    job = load_job(write_job(f"env_runners: {{{runners}}}"))
    if refused is None:
        check_resources(job, Resources(16, 0, nodes))
        return
    with pytest.raises(JobError) as error:
        check_resources(job, Resources(16, 0, nodes))
    assert str(error.value) == f"env_runners.count must be {refused}"


def test_every_learner_needs_a_group(write_job: WriteJob) -> None:
    job = load_job(write_job("learners: {count: 4}\ngrpo: {groups: 3}"))
    with pytest.raises(JobError, match=r"grpo\.groups must be at least learners\.count = 4, got 3"):
        check_resources(job, SERVER)


def test_local_cpus_are_those_this_process_may_use() -> None:
    assert 1 <= local_resources().cpus <= len(os.sched_getaffinity(0))


def test_workers_import_the_code_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["platform", "/elsewhere"]))
    path = worker_runtime_env()["env_vars"]["PYTHONPATH"]
    assert path.split(os.pathsep) == [*(str(ROOT / name) for name in ("platform", "envs", "policies")), "/elsewhere"]


def test_workers_of_a_submitted_directory_import_their_own_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unpacked = tmp_path / "_ray_pkg_0123"
    for name in ("platform/vlmgym", "envs", "policies"):
        (unpacked / name).mkdir(parents=True)
    monkeypatch.setattr("vlmgym.__file__", str(unpacked / "platform/vlmgym/__init__.py"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert worker_runtime_env() == {"env_vars": {"PYTHONPATH": os.pathsep.join(["platform", "envs", "policies"])}}


def test_an_installed_package_needs_no_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vlmgym.__file__", str(tmp_path / "lib" / "site-packages" / "vlmgym" / "__init__.py"))
    assert worker_runtime_env() == {}


def test_paths_that_the_submitted_job_sets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = {"runtime_env": {"env_vars": {"PYTHONPATH": "mine"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    assert worker_runtime_env() == {}


@pytest.mark.slow
def test_a_local_cluster_has_bounded_memory_and_leaves_the_home_directory_alone(tmp_path: Path) -> None:
    program = """
        import json, ray
        from vlmgym.cluster import start_ray

        @ray.remote
        def where():
            import vlmgym_envs
            return vlmgym_envs.__file__

        resources = start_ray(num_cpus=2)
        store = ray.cluster_resources()["object_store_memory"]
        print("RESULT", json.dumps([resources, start_ray(), store, ray.get(where.remote())]))
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")] or [done.stderr]
    first, again, store_bytes, imported = json.loads(line.removeprefix("RESULT "))
    assert first == again == [2.0, first[1], [[2.0, first[1], {}]]]
    assert store_bytes == 512 * 2**20
    assert imported == str(ROOT / "envs/vlmgym_envs/__init__.py")
    assert not (tmp_path / ".ray").exists()


def test_the_cluster_of_another_program_is_left_alone(ray_session: None, tmp_path: Path) -> None:
    """Only RAY_ADDRESS and `ray start` name a cluster to join; that of these tests is neither."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "from vlmgym.cluster import join_cluster; print(join_cluster())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "None\n", done.stderr
