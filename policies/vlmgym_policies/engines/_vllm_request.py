"""How a prompt and its sampling become a request to vLLM."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig

from vlmgym_policies.engine import Prompt, Sampling
from vlmgym_policies.processing import VLMProcessor

_TEMPERATURES = (0.01, 2.0)
"""vLLM raises lower ones and refuses higher ones."""


def vllm_prompt(prompt: Prompt, token_ids: NDArray[np.int32], image_token_id: int) -> dict[str, Any]:
    """The prompt as vLLM takes it: its ids, one placeholder for each of the pictures beside them.

    token_ids: int32 [P], media placeholders expanded.
    """
    request: dict[str, Any] = {"prompt_token_ids": collapse(token_ids, image_token_id, len(prompt.images))}
    if prompt.images:
        request["multi_modal_data"] = {"image": [_open(image) for image in prompt.images]}
    return request


def collapse(token_ids: NDArray[np.int32], image_token_id: int, num_images: int) -> list[int]:
    """Ids with one placeholder per image, which is what vLLM expands: [1, 9, 9, 9, 2] -> [1, 9, 2] for placeholder 9.

    Errors: ValueError where two images stand side by side, for then nobody knows where one ends.
    """
    placeholder = token_ids == image_token_id
    repeated = placeholder & np.concatenate([[False], placeholder[:-1]])
    collapsed = token_ids[~repeated]
    if (found := int(np.count_nonzero(collapsed == image_token_id))) != num_images:
        raise ValueError(f"the chat template must keep {num_images} images apart, got {found} runs of placeholders")
    return [int(token) for token in collapsed]


def sampling_params(sampling: Sampling, index: int, processor: VLMProcessor, *, in_parts: bool = False) -> Any:
    """vLLM's parameters for prompt `index` of a call; its draws depend on (sampling.seed, index) alone.

    in_parts: tokens are told as they come, not together at the end.

    Errors: ValueError for a temperature that vLLM would not sample at.
    """
    lowest, highest = _TEMPERATURES
    if sampling.temperature and not lowest <= sampling.temperature <= highest:
        raise ValueError(f"temperature must be 0 or in {lowest}..{highest} for vLLM, got {sampling.temperature}")
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    seed = np.random.SeedSequence([sampling.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=int(seed),
        logprobs=0,
        logit_bias={token: float("-inf") for token in processor.banned_token_ids},
        ignore_eos=True,  # the processor's end tokens decide, as in the other engines
        stop_token_ids=list(processor.eos_token_ids),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if in_parts else RequestOutputKind.FINAL_ONLY,
    )


def unused_media(path: str) -> dict[str, int]:
    """Kinds of media that the model knows and prompts never hold, so that no memory is kept for them."""
    return {"video": 0} if getattr(AutoConfig.from_pretrained(path), "video_token_id", None) is not None else {}


def _open(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image)).convert("RGB")
