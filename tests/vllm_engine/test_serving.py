"""vLLM behind Ray Serve: the answers of the engine, streamed and whole, before and after a swap."""

import asyncio
from hashlib import sha256

import openai
import pytest
from ports import free_port

from vlmgym.model_dirs import model_fingerprint
from vlmgym.serving.deploying import Scale, deploy, end, serve_config
from vlmgym.serving.replies import VERSION_HEADER
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.engines.openai import chat_message
from vlmgym_policies.prompting import make_prompt

pytestmark = pytest.mark.vllm

KEY = "secret"
SETTINGS = ServeSettings(
    model="m",
    engine="vllm",
    max_tokens=24,
    max_batch_size=8,
    max_model_len=256,
    api_key_sha256=sha256(KEY.encode()).hexdigest(),
)


def greedy(path, prompts):
    engine = make_engine("hf", path=str(path))
    completions = asyncio.run(engine.generate(prompts, Sampling(temperature=0, max_tokens=24)))
    engine.close()
    return [completion.text for completion in completions]


def test_a_served_vllm_answers_as_the_other_engine_and_swaps(ray_session, make_model, game):
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(4)]
    port, num_chunks = free_port(), []
    try:
        for seed in (0, 1):
            deploy(serve_config(SETTINGS, str(make_model(seed)), Scale(), port=port))
            expected = greedy(make_model(seed), prompts)
            with openai.OpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
                for prompt, text in zip(prompts, expected, strict=True):
                    asked = {"model": "m", "messages": [chat_message(m) for m in prompt.messages], "temperature": 0}
                    raw = client.chat.completions.with_raw_response.create(**asked)
                    assert raw.parse().choices[0].message.content == text
                    assert raw.headers[VERSION_HEADER] == model_fingerprint(make_model(seed))
                    chunks = list(client.chat.completions.create(**asked, stream=True))
                    num_chunks.append(len(chunks))
                    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
                with pytest.raises(openai.BadRequestError) as refused:
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 300}])
                assert refused.value.code == "context_length_exceeded"
        assert max(num_chunks) > 1  # not of each: a run of bytes that are no text yet is told as a whole
    finally:
        end()
