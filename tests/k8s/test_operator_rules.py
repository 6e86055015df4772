"""What the KubeRay operator refuses though the schema allows it: our manifests, and what breaks each of its rules."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

CLUSTER_KEY = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
TOKEN_SINCE = (2, 52)
QUEUE = "kueue.x-k8s.io/queue-name"
DNS_1035 = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


def broken_rules(document: dict[str, Any]) -> list[str]:
    """One line per rule that a Ray document breaks."""
    spec = document["spec"]
    key = CLUSTER_KEY[document["kind"]]
    broken = list(_broken_names(document))
    if document["kind"] == "RayJob":
        broken += _broken_job(document)
    cluster = spec if key is None else spec.get(key)
    return broken + (list(_broken_cluster(cluster, spec.get("submissionMode"))) if cluster else [])


def _broken_names(document: dict[str, Any]) -> Iterator[str]:
    name = document["metadata"]["name"]
    if not re.fullmatch(DNS_1035, name):
        yield f"name {name} is no DNS-1035 label"


def _broken_job(document: dict[str, Any]) -> Iterator[str]:
    spec = document["spec"]
    ends = spec.get("shutdownAfterJobFinishes", False)
    if ends and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield "deletionRules exclude shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not ends:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("suspend") and QUEUE not in document["metadata"].get("labels", {}):
        yield f"suspend is for Kueue: it needs the label {QUEUE}"
    if spec.get("suspend") and not ends:
        yield "suspend needs shutdownAfterJobFinishes"
    if "clusterSelector" in spec:
        if spec.get("backoffLimit", 0) > 0 or spec.get("suspend") or spec.get("submissionMode") == "SidecarMode":
            yield "clusterSelector excludes backoffLimit, suspend and SidecarMode"
    elif "rayClusterSpec" not in spec:
        yield "a job needs a rayClusterSpec or a clusterSelector"


def _broken_cluster(cluster: dict[str, Any], submission_mode: str | None) -> Iterator[str]:
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, *groups)]
    version = tuple(map(int, str(cluster.get("rayVersion", "0.0")).split(".")[:2]))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < TOKEN_SINCE:
        yield "token auth needs rayVersion 2.52"
    autoscales = cluster.get("enableInTreeAutoscaling") and cluster.get("autoscalerOptions", {}).get("version") == "v2"
    restarts = [pod.get("restartPolicy", "Never") != "Never" for pod in pods]
    if (autoscales and any(restarts)) or (submission_mode == "SidecarMode" and restarts[0]):
        yield "autoscaler v2 and SidecarMode need restartPolicy Never"
    if "gcsFaultToleranceOptions" in cluster:
        names = {env["name"] for pod in pods for container in pod["containers"] for env in container.get("env", [])}
        if names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} or "redis-password" in head["rayStartParams"]:
            yield "gcsFaultToleranceOptions exclude RAY_REDIS_ADDRESS and REDIS_PASSWORD"
    for group in groups:
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 2**31 - 1):
            yield f"{group['groupName']}: replicas must be in minReplicas..maxReplicas"
    if len({group["groupName"] for group in groups}) < len(groups):
        yield "names of worker groups must differ"


@pytest.fixture(scope="module")
def documents(manifests: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The one Ray document of each overlay."""
    found = {}
    for overlay, rendered in manifests.items():
        (found[overlay],) = [document for document in rendered if document["kind"] in CLUSTER_KEY]
    return found


def test_no_manifest_breaks_a_rule(documents: dict[str, dict[str, Any]]) -> None:
    assert {overlay: broken_rules(document) for overlay, document in documents.items()} == {
        overlay: [] for overlay in documents
    }


def test_only_the_kueue_overlay_suspends(documents: dict[str, dict[str, Any]]) -> None:
    assert [overlay for overlay, document in documents.items() if "suspend" in document["spec"]] == ["kueue"]


DELETE = object()


@pytest.mark.parametrize(
    ("overlay", "changes", "rule"),
    [
        ("gpu", {"spec.rayClusterSpec.rayVersion": "2.51.0"}, "token auth needs rayVersion 2.52"),
        ("gpu-service", {"spec.rayClusterConfig.rayVersion": DELETE}, "token auth needs rayVersion 2.52"),
        (
            "gpu-cluster",
            {"spec.headGroupSpec.template.spec.restartPolicy": "Always"},
            "autoscaler v2 and SidecarMode need restartPolicy Never",
        ),
        (
            "gpu-cluster",
            {"spec.workerGroupSpecs.0.template.spec.restartPolicy": "OnFailure"},
            "autoscaler v2 and SidecarMode need restartPolicy Never",
        ),
        (
            "gpu",
            {
                "spec.submissionMode": "SidecarMode",
                "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always",
            },
            "autoscaler v2 and SidecarMode need restartPolicy Never",
        ),
        (
            "gpu-service",
            {"spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.env.0.name": "RAY_REDIS_ADDRESS"},
            "gcsFaultToleranceOptions exclude RAY_REDIS_ADDRESS and REDIS_PASSWORD",
        ),
        (
            "gpu-service",
            {"spec.rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0.env.0.name": "REDIS_PASSWORD"},
            "gcsFaultToleranceOptions exclude RAY_REDIS_ADDRESS and REDIS_PASSWORD",
        ),
        (
            "gpu",
            {"spec.deletionStrategy": {"deletionRules": [{"policy": "DeleteCluster"}]}},
            "deletionRules exclude shutdownAfterJobFinishes",
        ),
        ("gpu", {"spec.shutdownAfterJobFinishes": False}, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"),
        ("gpu", {"spec.suspend": True}, f"suspend is for Kueue: it needs the label {QUEUE}"),
        (
            "kueue",
            {"spec.shutdownAfterJobFinishes": DELETE, "spec.ttlSecondsAfterFinished": DELETE},
            "suspend needs shutdownAfterJobFinishes",
        ),
        (
            "gpu",
            {"spec.clusterSelector": {"ray.io/cluster": "vlmgym"}},
            "clusterSelector excludes backoffLimit, suspend and SidecarMode",
        ),
        (
            "kueue",
            {"spec.clusterSelector": {"ray.io/cluster": "vlmgym"}, "spec.backoffLimit": 0},
            "clusterSelector excludes backoffLimit, suspend and SidecarMode",
        ),
        (
            "gpu",
            {
                "spec.clusterSelector": {"ray.io/cluster": "vlmgym"},
                "spec.backoffLimit": DELETE,
                "spec.submissionMode": "SidecarMode",
            },
            "clusterSelector excludes backoffLimit, suspend and SidecarMode",
        ),
        ("gpu", {"spec.rayClusterSpec": DELETE}, "a job needs a rayClusterSpec or a clusterSelector"),
        ("gpu", {"metadata.name": "8-gpus"}, "name 8-gpus is no DNS-1035 label"),
        ("gpu-cluster", {"metadata.name": "Shisen"}, "name Shisen is no DNS-1035 label"),
        (
            "gpu",
            {"spec.rayClusterSpec.workerGroupSpecs.0.replicas": 2},
            "workers: replicas must be in minReplicas..maxReplicas",
        ),
        (
            "gpu-cluster",
            {"spec.workerGroupSpecs.0.minReplicas": 1},
            "workers: replicas must be in minReplicas..maxReplicas",
        ),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_found(
    documents: dict[str, dict[str, Any]], overlay: str, changes: dict[str, Any], rule: str
) -> None:
    document = copy.deepcopy(documents[overlay])
    for path, value in changes.items():
        change(document, path, value)
    assert broken_rules(document) == [rule]


def change(document: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
