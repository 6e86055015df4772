"""How an engine is asked, with engines that answer as they are told."""

import asyncio

import numpy as np
import pytest

from vlmgym.serving.answering import answer, stream
from vlmgym.serving.requests import Question
from vlmgym_policies.engine import Completion, Delta, Message, Prompt, Sampling

PROMPT = Prompt((Message("user", "x"),))


def question(num_choices=1, stops=()):
    return Question(PROMPT, Sampling(max_tokens=5, seed=9), num_choices, stops, False, False)


def completion(text, version=0, finish_reason="length"):
    ids = np.zeros(len(text), dtype=np.int32)
    return Completion(text, np.zeros(7, dtype=np.int32), ids, ids.astype(np.float32), finish_reason, version)


class Engine:
    """generate: the next of `answers`. stream: `deltas`, (index, text, completion)."""

    def __init__(self, answers=(), deltas=()):
        self.answers, self.deltas = list(answers), deltas
        self.asked = []
        self.closed = False

    async def generate(self, prompts, sampling):
        self.asked.append((tuple(prompts), sampling))
        return self.answers.pop(0)

    async def stream(self, prompts, sampling):
        self.asked.append((tuple(prompts), sampling))
        try:
            for index, text, whole in self.deltas:
                yield Delta(index, text, len(text), 7, 0, whole)
        finally:
            self.closed = True


def test_choices_are_equal_prompts_of_one_call():
    engine = Engine([[completion("ab"), completion("c", finish_reason="stop")]])
    first, second = asyncio.run(answer(engine, question(2)))
    assert engine.asked == [((PROMPT, PROMPT), Sampling(max_tokens=5, seed=9))]
    assert (first.text, first.num_tokens, first.num_prompt_tokens, first.finish_reason) == ("ab", 2, 7, "length")
    assert (second.choice, second.text, second.finish_reason) == (1, "c", "stop")


def test_choices_of_different_weights_are_asked_for_again():
    engine = Engine([[completion("a", 0), completion("b", 1)], [completion("c", 1), completion("d", 1)]])
    choices = asyncio.run(answer(engine, question(2)))
    assert [(choice.text, choice.weights_version) for choice in choices] == [("c", 1), ("d", 1)]


def test_a_stream_tells_what_the_engine_tells():
    whole = completion("abc", finish_reason="stop")
    engine = Engine(deltas=[(0, "a", None), (1, "x", completion("x")), (0, "bc", whole)])

    async def read():
        return [piece async for piece in stream(engine, question(2))]

    pieces = asyncio.run(read())
    assert [(p.choice, p.text, p.finish_reason) for p in pieces] == [
        (0, "a", None),
        (1, "x", "length"),
        (0, "bc", "stop"),
    ]
    assert engine.closed


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_stop_ends_a_choice_and_the_last_one_the_engine(is_streamed):
    endless = [(index, text, None) for text in ("a", "b", "c", "d") for index in (0, 1)]
    engine = Engine(deltas=[*endless, (0, "never read", completion("abcd"))])

    async def read():
        if is_streamed:
            return [piece async for piece in stream(engine, question(2, ("bc",)))]
        return await answer(engine, question(2, ("bc",)))

    pieces = asyncio.run(read())
    for choice in (0, 1):
        own = [piece for piece in pieces if piece.choice == choice]
        assert "".join(piece.text for piece in own) == "a"
        assert own[-1].finish_reason == "stop" and sum(piece.num_tokens for piece in own) == 3
    assert engine.closed
