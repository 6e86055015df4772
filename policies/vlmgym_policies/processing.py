"""How a prompt becomes ids and pixels for a Hugging Face VLM, and which ids may never be sampled."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from vlmgym_policies.engine import Message, Prompt, PromptTooLongError
from vlmgym_policies.pixel_cache import PixelCache

MEDIA_TOKENS = ("image", "video", "audio", "vision_start", "vision_end")
VIDEO_CONFIG = "video_preprocessor_config.json"
_CACHED_PROMPTS, _CACHED_PIXEL_BYTES = 1024, 2**29
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class SpelledResponse(NamedTuple):
    """token_ids int32 [R]; spans, start and end in the text of each; the end token spans nothing, at the end."""

    token_ids: NDArray[np.int32]
    spans: list[tuple[int, int]]


class FittedPrompt(NamedTuple):
    """A prompt that a model has room for. token_ids: int32 [P], as of `encode`; num_cut_turns: how many it has lost."""

    prompt: Prompt
    token_ids: NDArray[np.int32]
    num_cut_turns: int


class VLMProcessor:
    """Tokenizer, chat template and image processor of one model directory (or hub name).

    Works for processors whose per-image outputs concatenate along their first axis (Qwen-VL, PaddleOCR-VL, LLaVA, ...).

    Raises:
        ValueError: no model at `path`, or its processor needs a package that is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with quiet_transformers():
                self._processor = AutoProcessor.from_pretrained(path)
                self._config = AutoConfig.from_pretrained(path)
                generation = GenerationConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"model {path!r} cannot be loaded: {_first_line(error)}") from error
        except ImportError as error:
            raise ValueError(f"model {path!r} needs a missing package: {_first_line(error)}") from error
        self.tokenizer = self._processor.tokenizer
        eos = generation.eos_token_id if generation.eos_token_id is not None else self.tokenizer.eos_token_id
        self.eos_token_ids: tuple[int, ...] = tuple(eos) if isinstance(eos, list) else (eos,)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id: int = pad if pad is not None else self.eos_token_ids[0]
        media = _media_ids(self._config)
        self.image_token_id: int = media["image"]
        self._unreadable = [media[kind] for kind in ("video", "audio") if kind in media]
        self._encode_messages = lru_cache(_CACHED_PROMPTS)(self._expand_and_encode)
        self._token_ids = lru_cache(_CACHED_PROMPTS)(self._tokenize)
        self._chat = lru_cache(_CACHED_PROMPTS)(self._apply_chat_template)
        self._image_pixels = PixelCache(self._process_image, _CACHED_PIXEL_BYTES)
        self._digest = lru_cache(_CACHED_PROMPTS)(self._hash_image)
        self._placeholders_of_size: dict[tuple[int, int], str] = {}

    @property
    def vocab_size(self) -> int:
        """Number of logits of the model; may exceed the tokenizer's entries."""
        size: int = self._config.get_text_config().vocab_size
        return size

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Ids removed from the distribution in sampler and learner alike: media placeholders and unnamed ids."""
        unnamed = range(len(self.tokenizer), self.vocab_size)
        return tuple(sorted({*_media_ids(self._config).values(), *unnamed} - set(self.eos_token_ids)))

    def encode(self, prompt: Prompt) -> NDArray[np.int32]:
        """Ids of the prompt as the model sees it, media placeholders expanded, up to the response: int32 [P].

        The same ids as the processor's own call makes. Cached in parts: siblings and equal texts share the work.
        """
        return self._encode_messages(prompt.messages)

    def fit(self, prompt: Prompt, max_tokens: int, *, cut_turns: bool = True) -> FittedPrompt:
        """The prompt without as many of its first turns as do not fit into `max_tokens`; never cut inside a turn.

        Errors: PromptTooLongError where the last turn alone does not fit, or the whole where no turn may be cut.
        """
        for num_cut in range(prompt.num_turns if cut_turns else 1):
            rest = prompt.without_first_turns(num_cut)
            token_ids = self.encode(rest)
            if len(token_ids) <= max_tokens:
                return FittedPrompt(rest, token_ids, num_cut)
        counted = "its last turn has" if cut_turns else "got"
        raise PromptTooLongError(f"a prompt must have at most {max_tokens} tokens, {counted} {len(token_ids)}")

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and response together that the model has positions for."""
        length: int = self._config.get_text_config().max_position_embeddings
        return length

    def spell_response(self, text: str) -> SpelledResponse:
        """A written response, end token included. Never for a sampled one, whose ids are known."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.array([*encoded["input_ids"], self.eos_token_ids[0]], dtype=np.int32)
        return SpelledResponse(ids, [*map(tuple, encoded["offset_mapping"]), (len(text), len(text))])

    def decode(self, token_ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Response text, end and padding tokens left out."""
        text: str = self.tokenizer.decode([int(i) for i in token_ids if int(i) not in self.silent_token_ids])
        return text

    @cached_property
    def silent_token_ids(self) -> frozenset[int]:
        """Ids that are no part of a response's text: end and padding."""
        return frozenset({*self.eos_token_ids, self.pad_token_id})

    @cached_property
    def byte_token_ids(self) -> frozenset[int]:
        """Ids that stand for one byte, where the tokenizer spells in bytes what it has no piece for."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return frozenset(token_id for token, token_id in vocabulary.items() if _BYTE.fullmatch(token))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for how prompts are read and responses spelled: equal where models can take turns."""
        parts = [
            self.tokenizer.backend_tokenizer.to_str(),
            str(self._processor.chat_template or self.tokenizer.chat_template),
            self._processor.image_processor.to_json_string(),
            f"{self.eos_token_ids} {self.banned_token_ids} {self.image_token_id}",
        ]
        return blake2b("\0".join(parts).encode(), digest_size=16).digest()

    def image_digest(self, image: bytes) -> bytes:
        """16 bytes that stand for the tensors a picture becomes here, and for how many tokens: equal where the same
        pixels were resized, normalised and cut alike."""
        return self._digest(image)

    def collate(
        self,
        token_ids: Sequence[NDArray[np.int32]],
        images: Sequence[Sequence[bytes]],
        padding: Literal["left", "right"],
        *,
        distinct_images: bool = False,
    ) -> dict[str, torch.Tensor]:
        """One padded batch of model inputs: int64 [B, T] ids and mask, and the pixels of all images in order.
        distinct_images: equal ones come once, and `image_sources` says which each is, as `seeing_each_once` takes it.
        """
        width = max(len(ids) for ids in token_ids)
        input_ids = torch.full((len(token_ids), width), self.pad_token_id, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(token_ids):
            place = slice(width - len(ids), width) if padding == "left" else slice(0, len(ids))
            input_ids[row, place] = torch.from_numpy(np.asarray(ids, dtype=np.int64))
            attention_mask[row, place] = 1
        pictures = [image for row in images for image in row]
        shown = list(dict.fromkeys(pictures)) if distinct_images else pictures
        pixels = [self._image_pixels(image) for image in shown]
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        batch |= {name: torch.cat([p[name] for p in pixels]) for name in (pixels[0] if pixels else ())}
        if distinct_images and pixels:
            batch["image_sources"] = torch.tensor([shown.index(image) for image in pictures])
        if pixels and "mm_token_type_ids" in self._model_arguments:
            batch["mm_token_type_ids"] = (input_ids == self.image_token_id).long()
        return batch

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the processor's files; also the one for videos, which vLLM reads, where this processor has no part
        for videos and so did not load it.
        """
        self._processor.save_pretrained(path)
        video = Path(self.path) / VIDEO_CONFIG
        if video.is_file() and not (Path(path) / VIDEO_CONFIG).exists():
            shutil.copyfile(video, Path(path) / VIDEO_CONFIG)

    @property
    def _model_arguments(self) -> frozenset[str]:
        return _forward_arguments(self._config.model_type)

    def _expand_and_encode(self, messages: tuple[Message, ...]) -> NDArray[np.int32]:
        text = self._chat(tuple((m.role, m.text, len(m.images)) for m in messages))
        images = [image for message in messages for image in message.images]
        if images or self._processor.image_token in text:
            pieces = text.split(self._processor.image_token)
            if len(pieces) != len(images) + 1:
                raise ValueError(
                    f"the chat template made {len(pieces) - 1} image placeholders for {len(images)} images"
                )
            placeholders = [self._placeholders(image) for image in images]
            text = "".join(part for pair in zip(pieces, [*placeholders, ""], strict=True) for part in pair)
        token_ids = self._token_ids(text)
        if np.isin(token_ids, self._unreadable).any():
            raise ValueError("a prompt must hold no placeholder of a video or a sound")
        return token_ids

    def _placeholders(self, image: bytes) -> str:
        """The image tokens of one picture; how many depends on its size alone."""
        size = Image.open(io.BytesIO(image)).size
        if size not in self._placeholders_of_size:
            pixels = self._image_pixels(image)
            self._placeholders_of_size[size] = self._processor.replace_image_token(pixels, image_idx=0)
        return self._placeholders_of_size[size]

    def _hash_image(self, image: bytes) -> bytes:
        hasher = blake2b(self._placeholders(image).encode(), digest_size=16)
        for name, tensor in sorted(self._image_pixels(image).items()):
            hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            hasher.update(tensor.contiguous().numpy().tobytes())
        return hasher.digest()

    def _apply_chat_template(self, messages: tuple[tuple[str, str, int], ...]) -> str:
        chat = [{"role": role, "content": _content(text, num_images)} for role, text, num_images in messages]
        text: str = self._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return text

    def _tokenize(self, text: str) -> NDArray[np.int32]:
        return np.array(self.tokenizer(text)["input_ids"], dtype=np.int32)

    def _process_image(self, image: bytes) -> dict[str, torch.Tensor]:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
        pixels = self._processor.image_processor(images=[picture], return_tensors="pt")
        return {name: value for name, value in pixels.items() if isinstance(value, torch.Tensor)}


def load_vlm(
    path: str, dtype: torch.dtype, loader: Any = AutoModelForImageTextToText, **options: Any
) -> PreTrainedModel:
    """The model of a directory or hub name, every weight present. loader: whose `from_pretrained` gets `options`.

    Raises:
        ValueError: no model at `path`, or its file lacks weights.
    """
    try:
        with quiet_transformers():
            model, report = loader.from_pretrained(path, dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"model {path!r} cannot be loaded: {_first_line(error)}") from error
    if report["missing_keys"]:
        raise ValueError(f"model {path!r} lacks weights, first {sorted(report['missing_keys'])[0]}")
    loaded: PreTrainedModel = model
    return loaded


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Holds back advice and progress bars of transformers; what matters is checked here and raised."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _content(text: str, num_images: int) -> list[dict[str, Any]]:
    return [{"type": "image"}] * num_images + [{"type": "text", "text": text}]


def _media_ids(config: Any) -> dict[str, int]:
    named = {kind: getattr(config, f"{kind}_token_id", None) for kind in MEDIA_TOKENS}
    if named["image"] is None:
        named["image"] = getattr(config, "image_token_index", None)
    if named["image"] is None:
        raise ValueError(f"{type(config).__name__} names no image token: not a vision-language model")
    return {kind: token for kind, token in named.items() if token is not None}


@lru_cache
def _forward_arguments(model_type: str) -> frozenset[str]:
    model_class = AutoModelForImageTextToText._model_mapping[type(AutoConfig.for_model(model_type))]
    return frozenset(inspect.signature(model_class.forward).parameters)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
