"""The part of the engine contract that needs no weights, and what is particular to functions."""

import asyncio
import time

import pytest

from vlmgym_policies.engine import Engine, Sampling, TrainableEngine, make_engine
from vlmgym_policies.engines.function import WrongAnswers
from vlmgym_policies.prompting import make_prompt


@pytest.fixture(scope="module")
def prompts(game):
    states = [game.mid_game(seed) for seed in range(5)]
    return [make_prompt(f"{number}: {game.prompt}", game.render(s), s) for number, s in enumerate(states)]


def build(function, **options):
    return make_engine("function", function=function, batch_wait_s=0.001, **options)


def ask(engine, prompts):
    return asyncio.run(engine.generate(prompts, Sampling()))


def first_words(images, prompts):
    return [f"{len(images)} {prompt.split(':')[0]}" for prompt in prompts]


def test_is_an_engine():
    assert isinstance(build(first_words), Engine)
    assert asyncio.run(build(first_words).weights_version()) == 0
    assert not isinstance(build(first_words), TrainableEngine)


def test_gets_pictures_and_texts_and_answers_in_order(prompts):
    seen = []

    def answer(images, texts):
        seen.extend(zip(images, texts, strict=True))
        return first_words(images, texts)

    completions = ask(build(answer), prompts)
    assert [completion.text for completion in completions] == ["5 0", "5 1", "5 2", "5 3", "5 4"]
    assert seen == [(prompt.images[0], prompt.messages[0].text) for prompt in prompts]
    assert seen[0][0].startswith(b"\x89PNG")
    assert {(c.finish_reason, len(c.token_ids), c.usage) for c in completions} == {("stop", 0, None)}


def test_an_async_function_is_awaited(prompts):
    async def answer(images, texts):
        await asyncio.sleep(0)
        return first_words(images, texts)

    assert [completion.text for completion in ask(build(answer), prompts[:1])] == ["1 0"]


def test_an_object_with_an_async_call_is_awaited(prompts):
    class Answerer:
        async def __call__(self, images, texts):
            return first_words(images, texts)

    assert ask(build(Answerer()), prompts[:1])[0].text == "1 0"


def test_requests_that_wait_share_a_call_and_calls_never_overlap(prompts):
    calls, running = [], []

    def answer(images, texts):
        assert not running
        running.append(True)
        time.sleep(0.01)
        calls.append(len(texts))
        running.pop()
        return first_words(images, texts)

    async def play(engine, prompt):
        return [(await engine.generate([prompt], Sampling()))[0].text.split()[1] for _ in range(3)]

    async def all_at_once():
        engine = build(answer, max_batch_size=4)
        return await asyncio.gather(*(play(engine, prompt) for prompt in prompts))

    assert asyncio.run(all_at_once()) == [[str(number)] * 3 for number in range(5)]
    assert sum(calls) == 15 and max(calls) == 4 and calls[0] == 4


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a", "b"], "one answer per prompt, 3, got 2"),
        (["a"] * 4, "one answer per prompt, 3, got 4"),
        ("abc", "must return a list of answers, got str"),
        (None, "must return a list of answers, got NoneType"),
        (["a", 2, "c"], "must return texts, got int"),
    ],
)
def test_anything_but_one_text_per_prompt_is_refused_by_name(prompts, answers, message):
    def answer_three(images, texts):
        return answers

    with pytest.raises(WrongAnswers, match=f"answer_three {message}|answer_three must return {message}"):
        ask(build(answer_three), prompts[:3])


def test_what_the_function_raises_reaches_whoever_asked_and_the_next_call_works(prompts):
    calls = []

    def answer(images, texts):
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("lost")
        return first_words(images, texts)

    engine = build(answer)
    with pytest.raises(KeyError, match="lost"):
        ask(engine, prompts)
    assert len(ask(engine, prompts)) == 5


def test_pause_holds_requests_until_resume(prompts):
    async def run():
        engine = build(first_words)
        await engine.pause()
        asked = asyncio.ensure_future(engine.generate(prompts[:1], Sampling()))
        await asyncio.sleep(0.05)
        assert not asked.done()
        await engine.resume()
        return await asyncio.wait_for(asked, 30)

    assert len(asyncio.run(run())) == 1


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="max_batch_size must be at least 1, got 0"):
        build(first_words, max_batch_size=0)
