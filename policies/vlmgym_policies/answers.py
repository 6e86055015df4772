"""The one grammar of a response: completion text -> perception, think, answer."""

from __future__ import annotations

from typing import NamedTuple

TAGS = ("perception", "think", "answer")


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
    return Response(*(_last_block(text, f"<{tag}>", f"</{tag}>") for tag in TAGS))


def write_response(perception: str, think: str, answer: str) -> str:
    """The response that `parse_response` reads back; used to write demonstrations."""
    return f"<perception>{perception}</perception><think>{think}</think><answer>{answer}</answer>"


def _last_block(text: str, opening: str, closing: str) -> str | None:
    """What the last pair encloses: a closing tag belongs to the first opening one since the closing tag before."""
    end = text.rfind(closing)
    while end >= 0:
        previous = text.rfind(closing, 0, end)
        start = text.find(opening, previous + 1, end)
        if start >= 0:
            return text[start + len(opening) : end]
        end = previous
    return None
