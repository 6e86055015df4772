"""A checkpoint takes the place of another, or is refused, while the policy answers on."""

import asyncio
import shutil

import pytest
from transformers import AutoTokenizer

from vlmgym.model_dirs import model_fingerprint
from vlmgym.serving.served_policy import Checkpoint, ServedPolicy
from vlmgym_policies.engine import Sampling
from vlmgym_policies.prompting import make_prompt


@pytest.fixture
def policy(settings):
    policy = ServedPolicy(settings)
    yield policy
    policy.close()


@pytest.fixture
def prompt(game):
    return make_prompt(game.prompt, game.render(game.mid_game(0)))


async def answer(policy, prompt):
    (completion,) = await policy.engine.generate([prompt], Sampling(temperature=0, max_tokens=24))
    return completion.text, policy.checkpoint(completion.weights_version).path


def test_another_checkpoint_answers_from_then_on(policy, make_model, prompt):
    first, second = (str(make_model(seed)) for seed in range(2))

    async def run():
        answers = []
        for path in (first, second, first):
            await policy.load(path)
            assert policy.current == Checkpoint(path, model_fingerprint(make_model(path == second)))
            answers.append(await answer(policy, prompt))
        return answers

    (text, path), (other_text, other_path), again = asyncio.run(run())
    assert again == (text, path) == (text, first)
    assert other_path == second and other_text != text


def test_a_checkpoint_that_cannot_serve_is_refused_and_the_policy_goes_on(policy, make_model, prompt, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(make_model(1), renamed)
    tokenizer = AutoTokenizer.from_pretrained(renamed)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(renamed)
    broken = tmp_path / "broken"
    shutil.copytree(make_model(1), broken)
    (broken / "model.safetensors").write_bytes(b"nothing")

    async def run():
        await policy.load(str(make_model(0)))
        before = await answer(policy, prompt)
        for path, reason in (
            (tmp_path / "absent", "holds no model"),
            (renamed, "tokenizer"),
            (broken, "cannot be loaded"),
        ):
            await policy.load(str(path))
            assert str(path) in policy.refused and reason in policy.refused
            assert policy.current.path == str(make_model(0))
            assert await answer(policy, prompt) == before
            await policy.check()
        await policy.load(str(make_model(1)))
        return policy.refused, policy.current.path

    assert asyncio.run(run()) == (None, str(make_model(1)))


def test_the_first_checkpoint_has_to_be_there(policy, tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        asyncio.run(policy.load(str(tmp_path)))
    with pytest.raises(RuntimeError, match="user_config must name a checkpoint"):
        asyncio.run(policy.check())


def test_weights_that_were_lost_on_the_way_are_an_error(policy, make_model, monkeypatch):
    async def run():
        await policy.load(str(make_model(0)))
        monkeypatch.setattr(policy.engine._weights, "replace", lambda _: (_ for _ in ()).throw(RuntimeError("cut off")))
        with pytest.raises(RuntimeError, match="cut off"):
            await policy.load(str(make_model(1)))
        with pytest.raises(RuntimeError, match="lost its weights"):
            await policy.check()

    asyncio.run(run())
