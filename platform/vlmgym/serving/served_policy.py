"""Which checkpoint a replica serves, and how another takes its place while requests go on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vlmgym.model_dirs import find_model_dir, model_fingerprint
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import StreamingEngine, make_engine, missing_extra
from vlmgym_policies.processing import VLMProcessor

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a response came from. path: as it was asked for. fingerprint: of the model directory found there."""

    path: str
    fingerprint: str


class ServedPolicy:
    """An engine and the checkpoint that it runs.

    Versions of weights count the checkpoints that this replica has loaded; what clients are told is the fingerprint,
    which is the same in all replicas that see the same files.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._checkpoints: dict[int, Checkpoint] = {}
        self._version = 0
        self._engine: StreamingEngine | None = None
        self._processor_digest = b""
        self._changing = asyncio.Lock()
        self.refused: str | None = None

    @property
    def engine(self) -> StreamingEngine:
        """Errors: RuntimeError before the first `load`."""
        if self._engine is None:
            raise RuntimeError("user_config must name a checkpoint: {checkpoint: PATH}")
        return self._engine

    @property
    def current(self) -> Checkpoint:
        """The checkpoint that new requests are answered from. Errors: as `engine`."""
        assert self.engine
        return self._checkpoints[self._version]

    def checkpoint(self, weights_version: int) -> Checkpoint:
        """The one that a completion with this version came from."""
        return self._checkpoints[weights_version]

    async def load(self, path: str) -> None:
        """Serves the checkpoint at `path`. Requests under way finish with the one before, others wait for this one.

        A checkpoint that cannot take the place of the current one is refused: the policy goes on with what it has,
        `refused` says why, and so does the log. For else a mistyped path would end the service.

        Errors: ValueError where the first checkpoint cannot be loaded; whatever an engine raises that lost its weights.
        """
        async with self._changing:
            if self._engine is None:
                await self._start(path)
                return
            try:
                await self._replace(path)
            except ValueError as error:
                self.refused = f"checkpoint {path!r} was refused: {error}"
                logger.error(self.refused)
            else:
                self.refused = None

    async def check(self) -> None:
        """Errors: RuntimeError where nothing can be answered."""
        if await self.engine.weights_version() is None:
            raise RuntimeError("the engine lost its weights")

    async def _start(self, path: str) -> None:
        import torch

        model_dir = find_model_dir(Path(path))
        on_gpu = torch.cuda.is_available()
        kind = self._settings.engine
        if kind == "auto":
            kind = "vllm" if on_gpu and missing_extra("vllm") is None else "hf"
        options = self._settings.engine_options(kind, on_gpu=on_gpu)
        self._processor_digest = await asyncio.to_thread(_processor_digest, model_dir)
        engine = await asyncio.to_thread(make_engine, kind, path=str(model_dir), **options)
        self._checkpoints[self._version] = Checkpoint(path, model_fingerprint(model_dir))
        self._engine = cast(StreamingEngine, engine)

    async def _replace(self, path: str) -> None:
        """Errors: ValueError where the checkpoint was refused."""
        model_dir = find_model_dir(Path(path))
        if await asyncio.to_thread(_processor_digest, model_dir) != self._processor_digest:
            raise ValueError("its tokenizer, chat template or image processor is not that of the model that is served")
        version = max(self._checkpoints) + 1
        self._checkpoints[version] = Checkpoint(path, model_fingerprint(model_dir))  # before anything comes from it
        await self.engine.load_weights(str(model_dir), version)
        self._version = version

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _processor_digest(model_dir: Path) -> bytes:
    return VLMProcessor(str(model_dir)).digest
