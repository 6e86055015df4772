"""Every overlay is what Kubernetes, Ray and Serve take, and runs with no more rights than it needs."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from vlmgym.cli import command_for
from vlmgym.serving.deploying import IMPORT_PATH
from vlmgym.serving.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
KUBERNETES = "1.33"
RAY_KINDS = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
Manifests = dict[str, list[dict[str, Any]]]


def ray_document(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (document,) = [document for document in documents if document["kind"] in RAY_KINDS]
    return document


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    key = RAY_KINDS[document["kind"]]
    return document["spec"] if key is None else document["spec"][key]


def pods_of(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by role: head, workers, submitter, redis."""
    document = ray_document(documents)
    cluster = cluster_of(document)
    pods = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    pods["head"] = cluster["headGroupSpec"]["template"]["spec"]
    if "submitterPodTemplate" in document["spec"]:
        pods["submitter"] = document["spec"]["submitterPodTemplate"]["spec"]
    return pods | {
        other["metadata"]["name"]: other["spec"]["template"]["spec"]
        for other in documents
        if other["kind"] == "StatefulSet"
    }


def as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_and_pods_have_no_unknown_field(manifests: Manifests, overlay: str) -> None:
    core = [document for document in manifests[overlay] if document["kind"] not in RAY_KINDS]
    assert {"PersistentVolumeClaim", "NetworkPolicy"} <= {document["kind"] for document in core}
    for document in [*core, *map(as_pod, pods_of(manifests[overlay]).values())]:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_unknown_field_of_a_pod_is_found(manifests: Manifests) -> None:
    pod = as_pod({**pods_of(manifests["gpu"])["head"], "runAsNonRoot": True})
    with pytest.raises(kubernetes_validate.ValidationError, match="runAsNonRoot"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_is_in_one_namespace(manifests: Manifests, overlay: str) -> None:
    assert {document["metadata"]["namespace"] for document in manifests[overlay]} == {"vlmgym"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_rights_that_it_does_not_need(manifests: Manifests, overlay: str) -> None:
    for role, pod in pods_of(manifests[overlay]).items():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, role
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, role
        needs_api = overlay == "gpu-cluster" and role == "head"  # the autoscaler runs there
        assert pod["automountServiceAccountToken"] == needs_api, role
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}, role
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), role


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_named_and_not_written(manifests: Manifests, overlay: str) -> None:
    for pod in pods_of(manifests[overlay]).values():
        for env in (env for container in pod["containers"] for env in container.get("env", [])):
            if re.search("KEY|TOKEN|PASSWORD", env["name"]):
                assert "value" not in env and "secretKeyRef" in env["valueFrom"], env["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_runs_the_driver_alone_and_every_ray_pod_has_results_and_shared_memory(
    manifests: Manifests, overlay: str
) -> None:
    cluster, pods = cluster_of(ray_document(manifests[overlay])), pods_of(manifests[overlay])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in pods["head"]["containers"][0]["resources"]["limits"]
    assert cluster["authOptions"] == {"mode": "token"}
    for role in ("head", "workers"):
        mounts = {mount["mountPath"] for mount in pods[role]["containers"][0]["volumeMounts"]}
        assert {"/data", "/dev/shm"} <= mounts
        assert {"name": "VLMGYM_HOME", "value": "/data"} in pods[role]["containers"][0]["env"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_version_of_ray_is_the_one_that_is_installed(manifests: Manifests, overlay: str) -> None:
    asked, installed = cluster_of(ray_document(manifests[overlay]))["rayVersion"], version("ray")
    assert asked.split(".")[:2] == installed.split(".")[:2]


@pytest.mark.parametrize("overlay", ["cpu-smoke", "gpu", "kueue"])
def test_a_job_runs_a_job_file_goes_on_after_a_loss_and_has_a_runtime_env(manifests: Manifests, overlay: str) -> None:
    spec = ray_document(manifests[overlay])["spec"]
    file, *arguments = spec["entrypoint"].split()
    assert command_for(str(ROOT / file)) == "train"
    assert arguments == ["--resume-or-start"] and spec["backoffLimit"] > 0
    assert RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"])).to_dict() == {"env_vars": {"PYTHONUNBUFFERED": "1"}}


def test_the_service_declares_what_serve_takes_and_outlives_its_head(manifests: Manifests) -> None:
    spec = ray_document(manifests["gpu-service"])["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    application = ServeDeploySchema.model_validate(config).applications[0]
    for written, schema in ((config, ServeDeploySchema), (config["applications"][0], ServeApplicationSchema)):
        assert written.keys() <= schema.model_fields.keys()  # Serve leaves out what it does not know
    assert config["applications"][0]["deployments"][0].keys() <= DeploymentSchema.model_fields.keys()
    assert application.import_path == IMPORT_PATH
    assert ServeSettings.model_validate(application.args).engine == "vllm"
    assert set(application.deployments[0].user_config) == {"checkpoint"}
    options = cluster_of(ray_document(manifests["gpu-service"]))["gcsFaultToleranceOptions"]
    redis = {document["kind"]: document for document in manifests["gpu-service"] if "redis" in str(document)}
    host, port = options["redisAddress"].split(":")
    assert redis["Service"]["metadata"]["name"] == host and redis["Service"]["spec"]["ports"][0]["port"] == int(port)
    container = redis["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
    assert container["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"]
    assert {"readinessProbe", "livenessProbe"} <= container.keys()


def test_a_wrong_serve_config_is_found(manifests: Manifests) -> None:
    config = yaml.safe_load(ray_document(manifests["gpu-service"])["spec"]["serveConfigV2"])
    config["applications"][0]["deployments"][0]["max_ongoing_requests"] = 0
    with pytest.raises(ValueError, match="max_ongoing_requests"):
        ServeDeploySchema.model_validate(config)


@pytest.mark.parametrize("overlay", ["gpu", "gpu-cluster", "gpu-service"])
def test_pods_with_gpus_are_let_onto_nodes_with_gpus(manifests: Manifests, overlay: str) -> None:
    workers = pods_of(manifests[overlay])["workers"]
    assert int(workers["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in workers["tolerations"]
