"""The whole of it: a Serve cluster on this machine, OpenAI's client, and weights that change under load."""

import asyncio
import re
import time
import urllib.request
from collections import Counter
from hashlib import sha256

import openai
import pytest
import ray
from ports import free_port

from vlmgym.cli import main
from vlmgym.evals.log import read_log
from vlmgym.model_dirs import model_fingerprint
from vlmgym.serving.deploying import APPLICATION, Scale, deploy, serve_config
from vlmgym.serving.replies import VERSION_HEADER
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.engines.openai import chat_message
from vlmgym_policies.prompting import make_prompt

KEY = "secret"
NUM_CLIENTS = 64
NUM_PROMPTS = 12
NUM_TOKENS = 24
GREEDY = Sampling(temperature=0, max_tokens=NUM_TOKENS)
SETTINGS = ServeSettings(model="m", max_tokens=NUM_TOKENS, api_key_sha256=sha256(KEY.encode()).hexdigest())


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def swap(ray_session, make_model, port):
    """Declares that the model of a seed is served, as `serve deploy` would; the application ends with the module."""
    from ray import serve

    def declare(seed, **changes):
        deploy(serve_config(SETTINGS, str(make_model(seed)), Scale(**changes), port=port))

    declare(0)
    yield declare
    serve.shutdown()


@pytest.fixture(scope="module")
def url(swap, port):
    return f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def prompts(game):
    return [make_prompt(game.prompt, game.render(state), state) for state in map(game.mid_game, range(NUM_PROMPTS))]


@pytest.fixture(scope="module")
def expected(make_model, prompts):
    """What each checkpoint answers greedily, in this process: fingerprint -> texts."""
    answers = {}
    for seed in range(2):
        engine = make_engine("hf", path=str(make_model(seed)))
        completions = asyncio.run(engine.generate(prompts, GREEDY))
        answers[model_fingerprint(make_model(seed))] = [completion.text for completion in completions]
        engine.close()
    first, second = answers.values()
    assert all(text != other for text, other in zip(first, second, strict=True))
    return answers


@pytest.fixture
def client(url):
    with openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
        yield client


def asked(prompt, **options):
    messages = [chat_message(message) for message in prompt.messages]
    return {"model": "m", "messages": messages, "temperature": 0, **options}


def test_a_picture_is_answered_as_in_process(client, prompts, expected, make_model):
    version = model_fingerprint(make_model(0))
    for prompt, text in zip(prompts, expected[version], strict=True):
        raw = client.chat.completions.with_raw_response.create(**asked(prompt))
        reply = raw.parse()
        assert reply.choices[0].message.content == text
        assert raw.headers[VERSION_HEADER] == version and reply.system_fingerprint == f"fp_{version}"


def test_a_stream_comes_piece_by_piece(client, prompts, expected, make_model):
    chunks = list(client.chat.completions.create(**asked(prompts[0], stream=True)))
    assert len(chunks) > 3
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected[model_fingerprint(make_model(0))][0]


def test_errors_reach_the_client(client, prompts):
    cases = [
        (openai.NotFoundError, "model_not_found", {"model": "gpt-4o"}),
        (openai.BadRequestError, "unsupported_parameter", {"top_p": 0.5}),
        (openai.BadRequestError, "context_length_exceeded", {"messages": [{"role": "user", "content": "x" * 5000}]}),
    ]
    for kind, code, changes in cases:
        with pytest.raises(kind) as refused:
            client.chat.completions.create(**asked(prompts[0]) | changes)
        assert refused.value.code == code
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").chat.completions.create(**asked(prompts[0]))


def test_a_client_that_leaves_frees_its_place(client, prompts, port):
    stream = client.chat.completions.create(**asked(prompts[0], stream=True))
    next(stream)
    stream.close()
    assert client.chat.completions.create(**asked(prompts[0])).choices
    assert read_metric("vlmgym_serve_batch", until=0.0) == 0.0


def read_metric(name, until=None, patience_s=60.0):
    """The newest sum of a metric on Ray's Prometheus endpoint of this node, waited for."""
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline_s = time.monotonic() + patience_s
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            lines = re.findall(rf"^ray_{name}\{{.*\}} (\S+)$", page.read().decode(), re.MULTILINE)
        found = sum(map(float, lines)) if lines else None
        if (found is not None and until in (None, found)) or time.monotonic() > deadline_s:
            return found
        time.sleep(0.5)


def test_what_is_done_is_counted_for_prometheus(client, prompts):
    client.chat.completions.create(**asked(prompts[0]))
    for name in ("requests_total", "latency_s_count", "prompt_tokens_total", "completion_tokens_total"):
        assert read_metric(f"vlmgym_serve_{name}") > 0


def run_swaps_under_load(swap, url, prompts, expected, seconds):
    """64 clients ask on while the checkpoint changes there and back; returns how often each version answered."""

    async def ask_on(client, index, counts, is_over):
        while not is_over.is_set():
            number = (index + sum(counts.values())) % len(prompts)
            if index % 4:
                raw = await client.chat.completions.with_raw_response.create(**asked(prompts[number]))
                text, version = raw.parse().choices[0].message.content, raw.headers[VERSION_HEADER]
            else:
                stream = await client.chat.completions.create(**asked(prompts[number], stream=True))
                version = stream.response.headers[VERSION_HEADER]
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == expected[version][number]
            counts[version] += 1

    async def swap_on(is_over):
        deadline_s, num_swaps = time.monotonic() + seconds, 0
        while time.monotonic() < deadline_s:
            num_swaps += 1
            await asyncio.to_thread(swap, num_swaps % 2)
            await asyncio.sleep(2.0)
        is_over.set()
        return num_swaps

    async def run():
        counts, is_over = Counter(), asyncio.Event()
        async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
            asking = [asyncio.create_task(ask_on(client, i, counts, is_over)) for i in range(NUM_CLIENTS)]
            num_swaps, *_ = await asyncio.gather(swap_on(is_over), *asking)
        return counts, num_swaps

    return asyncio.run(run())


@pytest.mark.parametrize("seconds", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_weights_change_under_load_without_a_failed_request(swap, url, prompts, expected, seconds):
    """No retries: a single failure, or an answer that is not that of the version it names, fails the test."""
    counts, num_swaps = run_swaps_under_load(swap, url, prompts, expected, seconds)
    assert num_swaps >= 2 and set(counts) == set(expected) and min(counts.values()) > NUM_CLIENTS


def test_a_swap_restarts_nothing(swap, client, make_model, prompts):
    before = running_replicas()
    swap(1)
    reply = client.chat.completions.create(**asked(prompts[0]))
    assert reply.system_fingerprint == f"fp_{model_fingerprint(make_model(1))}"
    swap(0)
    assert running_replicas() == before and len(before) == 1


def running_replicas():
    names = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
    return {name for name in names if name.startswith(f"SERVE_REPLICA::{APPLICATION}")}


def test_an_evaluation_through_serve_is_that_of_the_engine(swap, url, make_model, tmp_path, monkeypatch):
    """`vlmgym eval`, greedy, for the endpoint and for the directory: the same answers in every step."""
    swap(0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    logs = []
    for number, policy in enumerate((f"openai:m@{url}", str(make_model(0)))):
        out = tmp_path / str(number)
        command = ["eval", "--game", "shisen_sho", "--level", "tiny", "--policy", policy, "--out", str(out)]
        options = ["--temperature", "0", "--max-tokens", str(NUM_TOKENS), "--runs", "4", "--steps", "5"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *options, "--no-video", "--no-ceilings"])
        assert ended.value.code == 0
        logs.append(read_log(out / "eval.json"))
    served, local = logs
    assert [run.steps for run in served.runs] == [run.steps for run in local.runs]
    assert all(run.steps for run in served.runs)


def test_what_is_beyond_the_queue_is_sent_away_and_told_when_to_come_back(swap, client, prompts):
    async def flood():
        async with openai.AsyncOpenAI(api_key=KEY, base_url=str(client.base_url), max_retries=0) as many:
            calls = [many.chat.completions.create(**asked(prompts[0], n=4)) for _ in range(200)]
            return await asyncio.gather(*calls, return_exceptions=True)

    swap(0, max_queued=1)
    try:
        replies = asyncio.run(flood())
    finally:
        swap(0)
    refused = [reply for reply in replies if isinstance(reply, openai.RateLimitError)]
    assert refused and len(refused) < len(replies)
    assert {error.response.headers["retry-after"] for error in refused} == {"1"}
    assert not [reply for reply in replies if isinstance(reply, Exception) and reply not in refused]
