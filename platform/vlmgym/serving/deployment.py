"""The Serve application: one deployment, each replica an engine behind the chat API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.context import _get_global_client  # where the proxies listen; Serve has no public name for it

from vlmgym.serving.access import required_key
from vlmgym.serving.api import ChatApi
from vlmgym.serving.metrics import ServeMetrics
from vlmgym.serving.served_policy import ServedPolicy
from vlmgym.serving.settings import ServeSettings

DEPLOYMENT = "policy"
RETRY_AFTER_S = 1


def build_app(args: dict[str, Any]) -> Application:
    """What a Serve YAML imports: `import_path: vlmgym.serving.deployment:build_app`. args: of `ServeSettings`."""
    return PolicyServer.bind(ServeSettings.model_validate(args))  # type: ignore[attr-defined]  # it is a Deployment now


# max_ongoing_requests: a replica's batch. What is beyond waits in the proxy, and beyond that is sent away.
@serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=64,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
    graceful_shutdown_timeout_s=120.0,
    logging_config={"enable_access_log": False},
)
@serve.ingress()
class PolicyServer:
    """A replica. `user_config: {checkpoint: PATH}` names what it serves, and may change at any time.

    Errors: ValueError where the proxies listen to other machines and there is no key.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._key_sha256 = required_key(settings.api_key_sha256, os.environ, _get_global_client().http_config.host)
        self._policy = ServedPolicy(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return ChatApi(self._policy, self._settings, ServeMetrics(), self._key_sha256).app

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Errors: ValueError for anything but a checkpoint, and as `ServedPolicy.load`."""
        if set(config) != {"checkpoint"} or not isinstance(config["checkpoint"], str):
            raise ValueError(f"user_config must be {{checkpoint: PATH}}, got {dict(config)}")
        await self._policy.load(config["checkpoint"])

    async def check_health(self) -> None:
        await self._policy.check()
