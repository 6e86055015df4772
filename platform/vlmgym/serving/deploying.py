"""How a policy gets onto a Serve cluster: as the same declaration that `serve deploy` and a RayService take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlmgym.cluster import worker_runtime_env
from vlmgym.errors import BadInput
from vlmgym.serving.settings import ServeSettings

APPLICATION = "vlmgym"
IMPORT_PATH = "vlmgym.serving.deployment:build_app"
DEPLOYMENT = "policy"
"""As in `serving.deployment`, which only a cluster imports."""
POLL_S = 0.2
_OVER = {"DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED"}


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, what each takes, and how much waits for them.

    max_replicas: where it is more than min_replicas, Serve adds replicas while each has more than its batch to do, and
    takes them away again. max_queued: requests that wait in a proxy; the next one gets 429.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    max_queued: int = 256
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def serve_config(
    settings: ServeSettings, checkpoint: str, scale: Scale, *, host: str = "127.0.0.1", port: int = 8000
) -> dict[str, Any]:
    """What `serve deploy` takes, as YAML has it. A change of `checkpoint` alone swaps weights, without a restart."""
    deployment: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": settings.max_batch_size,
        "max_queued_requests": scale.max_queued,
        "ray_actor_options": {"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus},
        "user_config": {"checkpoint": checkpoint},
    }
    if scale.max_replicas > scale.min_replicas:
        deployment["autoscaling_config"] = {
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": settings.max_batch_size,
        }
    else:
        deployment["num_replicas"] = scale.min_replicas
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "runtime_env": worker_runtime_env(),
                "args": settings.model_dump(exclude_defaults=True),
                "deployments": [deployment],
            }
        ],
    }


def checkpoint_of(config: dict[str, Any]) -> str:
    """The checkpoint that such a declaration names."""
    checkpoint: str = config["applications"][0]["deployments"][0]["user_config"]["checkpoint"]
    return checkpoint


def deploy(config: dict[str, Any], wait: Callable[[str], None] = lambda line: None) -> None:
    """Starts or changes the application on the connected cluster; returns when all of it is as `config` says.

    wait: told what is waited for, whenever that changes.
    Errors: BadInput where Serve listens elsewhere or hosts others already, which a declaration would end; and where the
        application does not come up.
    """
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    options = schema.http_options
    with contextlib.suppress(
        RayActorError, TimeoutError
    ):  # a proxy that starts slowly is replaced, and waited for below
        serve.start(proxy_location=schema.proxy_location, http_options={"host": options.host, "port": options.port})
    client = _get_global_client()
    listens = client.http_config
    if (listens.host, listens.port) != (options.host, options.port):
        there, asked = f"{listens.host}:{listens.port}", f"{options.host}:{options.port}"
        raise BadInput(f"Serve listens at {there} on this cluster, not at {asked}: `serve shutdown` ends it")
    if others := sorted(serve.status().applications.keys() - {APPLICATION}):
        raise BadInput(f"Serve hosts {', '.join(others)} on this cluster, which this would end: `serve shutdown` first")
    client.deploy_apps(schema)
    _wait_until_running(serve.status, wait)


def end() -> None:
    """Ends Serve on the connected cluster, and all it hosts."""
    from ray import serve

    serve.shutdown()


def _wait_until_running(read_status: Callable[[], Any], wait: Callable[[str], None]) -> None:
    said = ""
    while True:
        status = read_status()
        application = status.applications[APPLICATION]
        deployment = application.deployments.get(DEPLOYMENT)
        if application.status == "RUNNING" and "HEALTHY" in status.proxies.values():
            return
        if application.status in _OVER:
            reason = (deployment.message if deployment else "") or application.message
            raise BadInput(f"the policy does not come up: {_last_line(reason) or 'no reason given'}")
        line = _last_line(deployment.message if deployment else application.message)
        if line and line != said:
            wait(line)
            said = line
        time.sleep(POLL_S)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""
