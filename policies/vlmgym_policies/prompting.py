"""How a state becomes a prompt: what is shown of it, and what is asked."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmgym_envs.core import Game
from vlmgym_policies.engine import Message, Prompt

Observation = Literal["picture", "text", "oracle"]
"""What a prompt shows of a board: its picture; its exact text alone; or both, an oracle for perception."""

PICTURE_SHOWS = "The picture shows"
"""How the prompt of every game begins."""


def ask(
    game: Game[Any, Any, Any],
    state: Any,
    observation: Observation = "picture",
    image: NDArray[np.uint8] | None = None,
) -> Prompt:
    """The game's question in `state`, one user message. image: uint8 [H, W, 3], its picture, if that is drawn already.

    The board's text is the one that the perception block is held against, so that "text" leaves out seeing, and
    "oracle" says how well a model reasons and answers once it need not see.
    """
    text = instruction(game, observation)
    if observation != "picture":
        text += game.describe(state)
    if observation == "text":
        return Prompt((Message("user", text),), state)
    return make_prompt(text, game.render(state) if image is None else image, state)


def instruction(game: Game[Any, Any, Any], observation: Observation) -> str:
    """What a prompt says in every state; the board's text, where it is shown, comes behind it."""
    match observation:
        case "picture":
            return game.prompt
        case "text":
            return game.prompt.replace(PICTURE_SHOWS, "The text at the end shows", 1) + "\n"
        case "oracle":
            return f"{game.prompt}\nThe board in the picture is:\n"


def make_prompt(text: str, image: NDArray[np.uint8], state: Any = None) -> Prompt:
    """One user message: the picture, then the instruction. image: uint8 [H, W, 3]."""
    return Prompt((Message("user", text, (png(image),)),), state)


def png(image: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] -> PNG file; the same pixels give the same bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()
