"""Decides what a served policy is called, which engine runs it, and how much a request may ask."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ServeSettings(BaseModel):
    """The arguments of the Serve application; a change of any restarts the replicas.

    The checkpoint is none of them: it is the deployment's `user_config`, so that it can be changed meanwhile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="name that clients ask for")
    engine: Literal["auto", "hf", "vllm"] = Field("auto", description="auto is vllm where that and a GPU are there")
    max_batch_size: int = Field(64, ge=1, description="most responses that a replica writes at once")
    max_model_len: int | None = Field(
        None, ge=2, description="most tokens of a prompt and its response; by default what the model has positions for"
    )
    max_tokens: int = Field(1024, ge=1, description="longest response, whatever a request allows")
    tensor_parallel: int = Field(1, ge=1, description="vllm: workers that share the model, a GPU each")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="vllm: share of each GPU's memory")
    max_choices: int = Field(16, ge=1, description="most choices, `n`, of a request")
    max_images: int = Field(16, ge=0, description="most pictures of a request")
    max_image_px: int = Field(16_000_000, ge=1, description="most pixels of a picture")
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="largest request")
    api_key_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the key; by default that of VLMGYM_API_KEY, where it is set"
    )

    def engine_options(self, engine: str, *, on_gpu: bool) -> dict[str, Any]:
        """What `make_engine(engine, path=..., ...)` takes."""
        options: dict[str, Any] = {
            "dtype": "bfloat16" if on_gpu else "float32",
            "max_batch_size": self.max_batch_size,
            "max_model_len": self.max_model_len,
            "cut_turns": False,
        }
        if engine == "vllm":
            return options | {
                "tensor_parallel": self.tensor_parallel,
                "gpu_memory_utilization": self.gpu_memory_utilization,
            }
        return options | {"device": "cuda" if on_gpu else "cpu"}
