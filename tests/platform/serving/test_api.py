"""The routes, asked by OpenAI's own client without a network or Ray, in front of a real engine."""

import asyncio
import json
from contextlib import asynccontextmanager
from hashlib import sha256
from urllib.parse import unquote

import httpx
import openai
import pytest

from vlmgym.serving.api import CLIENT_GONE, ChatApi
from vlmgym.serving.replies import CHECKPOINT_HEADER, VERSION_HEADER
from vlmgym.serving.served_policy import ServedPolicy
from vlmgym_policies.engine import GenerationError, NoWeightsError, Sampling
from vlmgym_policies.engines.openai import chat_message
from vlmgym_policies.prompting import make_prompt

NUM_TOKENS = 24


class Metrics:
    """Keeps what was counted."""

    def __init__(self):
        self.statuses, self.tokens, self.writing, self.first_tokens = [], [], 0, 0

    def began(self, num_choices):
        self.writing += num_choices

    def ended(self, num_choices, num_prompt_tokens, num_completion_tokens):
        self.writing -= num_choices
        self.tokens.append((num_prompt_tokens, num_completion_tokens))

    def first_token(self, seconds):
        self.first_tokens += 1

    def answered(self, status, seconds):
        assert seconds >= 0
        self.statuses.append(status)


@pytest.fixture(scope="module")
def policy(make_model):
    from vlmgym.serving.settings import ServeSettings

    policy = ServedPolicy(ServeSettings(model="m", max_batch_size=8))
    asyncio.run(policy.load(str(make_model(0))))
    yield policy
    policy.close()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def api(policy, settings, metrics):
    return ChatApi(policy, settings, metrics, key_sha256=None).app


@pytest.fixture(scope="module")
def prompt(game):
    return make_prompt(game.prompt, game.render(game.mid_game(0)))


@pytest.fixture
def messages(prompt):
    return [chat_message(message) for message in prompt.messages]


@asynccontextmanager
async def connect(app, key="none"):
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False))
    async with openai.AsyncOpenAI(api_key=key, base_url="http://here/v1", http_client=http, max_retries=0) as client:
        yield client


def ask(app, messages, key="none", **options):
    async def run():
        async with connect(app, key) as client:
            reply = await client.chat.completions.create(model="m", messages=messages, **options)
            return [chunk async for chunk in reply] if options.get("stream") else reply

    return asyncio.run(run())


def send(app, method="POST", path="/v1/chat/completions", **options):
    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False)) as client:
            return await client.request(method, f"http://here{path}", **options)

    return asyncio.run(run())


def test_an_answer_is_the_engines(api, policy, metrics, messages, prompt):
    reply = ask(api, messages, seed=5, n=2)
    expected = asyncio.run(policy.engine.generate([prompt] * 2, Sampling(max_tokens=NUM_TOKENS, seed=5)))
    assert [choice.message.content for choice in reply.choices] == [completion.text for completion in expected]
    assert [choice.finish_reason for choice in reply.choices] == [completion.finish_reason for completion in expected]
    num_written = sum(len(completion.token_ids) for completion in expected)
    num_read = len(expected[0].prompt_token_ids)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (num_read, num_written)
    assert (reply.object, reply.model) == ("chat.completion", "m")
    assert reply.system_fingerprint == f"fp_{policy.current.fingerprint}"
    assert (metrics.statuses, metrics.tokens, metrics.writing) == ([200], [(num_read, num_written)], 0)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 5, "n": 2}, {"seed": 5, "stop": "e"}])
def test_a_stream_tells_the_same_answer(api, policy, metrics, messages, options):
    whole = ask(api, messages, **options)
    chunks = ask(api, messages, stream=True, stream_options={"include_usage": True}, **options)
    *told, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in told if chunk.choices[0].index == choice.index]
        assert [part.delta.role for part in own] == ["assistant"] + [None] * (len(own) - 1)
        assert "".join(part.delta.content for part in own) == choice.message.content
        assert [part.finish_reason for part in own] == [None] * (len(own) - 1) + [choice.finish_reason]
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    assert len({chunk.id for chunk in chunks}) == 1
    assert (metrics.statuses, metrics.writing, metrics.first_tokens) == ([200, 200], 0, 1)
    assert metrics.tokens[0] == metrics.tokens[1]


def test_a_stop_cuts_the_text_and_saves_the_rest(api, messages):
    whole = ask(api, messages, seed=5).choices[0].message.content
    stop = whole[len(whole) // 2 :][:2]
    reply = ask(api, messages, seed=5, stop=[stop])
    assert reply.choices[0].message.content == whole[: whole.find(stop)]
    assert reply.choices[0].finish_reason == "stop" and reply.usage.completion_tokens < NUM_TOKENS


def test_every_response_says_what_it_came_from(api, policy, body):
    for content in (body(), body(stream=True)):
        reply = send(api, content=content)
        assert reply.headers[VERSION_HEADER] == policy.current.fingerprint
        assert unquote(reply.headers[CHECKPOINT_HEADER]) == policy.current.path
        assert reply.status_code == 200


def test_models_are_listed(api, policy):
    async def run():
        async with connect(api) as client:
            return [model async for model in client.models.list()], await client.models.retrieve("m")

    (listed,), model = asyncio.run(run())
    assert listed == model and (model.id, model.object, model.owned_by) == ("m", "model", "vlmgym")
    assert (model.checkpoint, model.weights_version) == (policy.current.path, policy.current.fingerprint)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/models/gpt-4o", 404), ("GET", "/v1/completions", 404), ("GET", "/v1/chat/completions", 405)],
)
def test_other_routes_are_refused_in_the_same_form(api, method, path, status):
    reply = send(api, method, path)
    assert (reply.status_code, set(reply.json()["error"])) == (status, {"message", "type", "param", "code"})


def test_a_prompt_that_is_too_long_is_refused(api, metrics, messages):
    long = [{"role": "user", "content": 5000 * "x"}]
    for options in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError, match="at most 4072 tokens, got ") as refused:
            ask(api, long, **options)
        assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most"):
        ask(api, [*long, {"role": "assistant", "content": "y"}, *messages])  # no turn is cut in silence
    assert (metrics.statuses, metrics.writing) == ([400] * 3, 0)


def test_a_prompt_that_the_model_cannot_read_is_refused_and_harms_no_other(api, messages):
    async def run():
        async with connect(api) as client:
            bad = [{"role": "user", "content": "<|image_pad|>"}]
            calls = [client.chat.completions.create(model="m", messages=m) for m in (bad, messages, bad, messages)]
            return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third, fourth = asyncio.run(run())
    for refused in (first, third):
        assert isinstance(refused, openai.BadRequestError) and refused.code == "invalid_prompt"
    assert second.choices and fourth.choices


def test_a_request_that_is_too_large_is_refused(api, body, metrics):
    reply = send(api, content=body(user="x" * 50_000))
    assert (reply.status_code, reply.json()["error"]["code"], metrics.statuses) == (413, "request_too_large", [413])


def test_the_key_is_asked_for(policy, settings, metrics, messages, body):
    app = ChatApi(policy, settings, metrics, sha256(b"secret").hexdigest()).app
    assert ask(app, messages, key="secret", max_tokens=1).choices
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        ask(app, messages, key="Secret")
    for headers in ({}, {"authorization": "secret"}, {"authorization": "Basic secret"}, {"authorization": "Bearer "}):
        assert send(app, content=body(), headers=headers).status_code == 401
        assert send(app, "GET", "/v1/models", headers=headers).status_code == 401
    assert send(app, "GET", "/health").status_code == 200


class Broken:
    """An engine that raises, at once or after a delta."""

    def __init__(self, error, deltas=()):
        self.error, self.deltas = error, deltas

    async def generate(self, prompts, sampling):
        raise self.error

    async def stream(self, prompts, sampling):
        for delta in self.deltas:
            yield delta
        raise self.error

    async def weights_version(self):
        return None


@pytest.fixture
def break_engine(policy, monkeypatch):
    return lambda *broken: monkeypatch.setattr(policy, "_engine", Broken(*broken))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoWeightsError(), 503),
        (GenerationError("given up"), 503),
        (ValueError("odd"), 400),
        (RuntimeError("lost"), 500),
    ],
)
def test_errors_of_the_engine_become_a_status(api, metrics, body, break_engine, error, status):
    break_engine(error)
    for content in (body(), body(stream=True)):
        reply = send(api, content=content)
        assert reply.status_code == status
        assert reply.headers.get("retry-after") == ("1" if status == 503 else None)
        assert "lost" not in reply.text
    assert (metrics.statuses, metrics.writing) == ([status] * 2, 0)


def test_an_error_in_a_stream_is_its_last_event(api, policy, metrics, body, break_engine):
    from vlmgym_policies.engine import Delta

    break_engine(GenerationError("given up"), [Delta(0, "a", 1, 5, 0, None)])
    reply = send(api, content=body(stream=True))
    first, last = reply.text.strip().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == "a"
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "given up"
    assert metrics.writing == 0


def test_health_is_that_of_the_engine(api, policy, break_engine):
    assert send(api, "GET", "/health").json() == {
        "status": "ok",
        "model": "m",
        "checkpoint": policy.current.path,
        "weights_version": policy.current.fingerprint,
        "refused": None,
    }
    break_engine(None)
    reply = send(api, "GET", "/health")
    assert (reply.status_code, reply.json()["reason"]) == (503, "the engine lost its weights")


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_is_counted_and_takes_its_answer_along(api, metrics, policy, body, is_streamed):
    async def run():
        requests = [{"type": "http.request", "body": body(stream=is_streamed), "more_body": False}]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
        told = []

        async def receive():
            return requests.pop(0) if requests else await asyncio.sleep(3600)

        async def send(message):
            told.append(message)

        asked = asyncio.ensure_future(api(scope, receive, send))
        while len(told) < 3 if is_streamed else not metrics.writing:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.wait_for(policy.engine.pause(), 60)  # which waits for all that runs
        await policy.engine.resume()
        return told

    told = asyncio.run(run())
    assert len(told) == (3 if is_streamed else 0)
    assert (metrics.statuses, metrics.writing) == ([CLIENT_GONE], 0)
