"""The one grammar of a response: completion text -> perception, think, answer."""

from __future__ import annotations

import re
from typing import NamedTuple

TAGS = ("perception", "think", "answer")
_BLOCKS = {tag: re.compile(rf"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in TAGS}


class Response(NamedTuple):
    """The content of each tag pair, None where the pair is missing. Of several pairs the last one counts."""

    perception: str | None
    think: str | None
    answer: str | None

    @property
    def well_formed(self) -> bool:
        """All three tag pairs occur: the paper's format reward (arXiv 2505.13426)."""
        return None not in self


def parse_response(text: str) -> Response:
    """Reads a completion. Never raises: what is missing is None.

    >>> parse_response("<think>left</think><answer>3</answer>").answer
    '3'
    """
    found = {tag: pattern.findall(text) for tag, pattern in _BLOCKS.items()}
    return Response(*(found[tag][-1] if found[tag] else None for tag in TAGS))


def write_response(perception: str, think: str, answer: str) -> str:
    """The response that `parse_response` reads back; used to write demonstrations."""
    return f"<perception>{perception}</perception><think>{think}</think><answer>{answer}</answer>"
