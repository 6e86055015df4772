"""The part of the engine contract that needs no weights, against a server on this machine."""

import asyncio
import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vlmgym_policies.engine import Engine, GenerationError, Sampling, TrainableEngine, Usage, make_engine
from vlmgym_policies.prompting import make_prompt


class ChatServer(ThreadingHTTPServer):
    """Answers each request with the next of `replies`, the last one for good.

    A reply: (status, body) or a function of the request's body that makes one. requests: the bodies received.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = [(200, chat("<answer>1</answer>"))]
        self.requests = []
        self.keys = []
        self.lock = threading.Lock()
        self.running = self.most_running = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        status, content = reply(body) if callable(reply) else reply
        with server.lock:
            server.running -= 1
        payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


def chat(text, finish="stop", usage=(7, 3)):
    reply = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
    }
    if usage:
        counts = zip(("prompt_tokens", "completion_tokens", "total_tokens"), (*usage, sum(usage)), strict=True)
        reply["usage"] = dict(counts)
    return reply


def error(message):
    return {"error": {"message": message, "type": "x", "code": None, "param": None}}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def prompts(game):
    states = [game.mid_game(seed) for seed in range(6)]
    return [make_prompt(f"{number}: {game.prompt}", game.render(s), s) for number, s in enumerate(states)]


def build(server, **options):
    return make_engine("openai", model="m", url=server.url, **options)


def ask(engine, prompts, **sampling):
    async def run():
        try:
            return await engine.generate(prompts, Sampling(**sampling))
        finally:
            await engine.close()

    return asyncio.run(run())


def text_of(body):
    return body["messages"][0]["content"][1]["text"]


def test_is_an_engine(server):
    assert isinstance(build(server), Engine)
    assert asyncio.run(build(server).weights_version()) == 0
    assert not isinstance(build(server), TrainableEngine)


def test_asks_as_the_service_expects(server, prompts):
    (completion,) = ask(build(server), prompts[:1], temperature=0.5, max_tokens=99, seed=4)
    assert completion.text == "<answer>1</answer>"
    assert (completion.finish_reason, completion.usage, len(completion.token_ids)) == ("stop", Usage(7, 3), 0)
    (body,) = server.requests
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 99)
    assert server.keys == ["Bearer none"]
    (message,) = body["messages"]
    picture, text = message["content"]
    assert message["role"] == "user"
    assert text == {"type": "text", "text": prompts[0].messages[0].text}
    head, data = picture["image_url"]["url"].split(",")
    assert (picture["type"], head) == ("image_url", "data:image/png;base64")
    assert base64.b64decode(data) == prompts[0].images[0]


def test_the_key_comes_from_the_environment(server, prompts, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask(build(server), prompts[:1])
    assert server.keys == ["Bearer secret"]


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY must be set"):
        make_engine("openai", model="gpt-x")


def test_seeds_follow_from_the_call_and_the_place_in_it(server, prompts):
    def seeds(seed):
        server.requests.clear()
        ask(build(server, concurrency=1), prompts[:3], seed=seed)
        return [body["seed"] for body in server.requests]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 6
    assert all(0 <= seed < 2**31 for seed in seeds(3))


def test_answers_come_back_in_order(server, prompts):
    def reply(body):
        number = int(text_of(body).split(":")[0])
        time.sleep(0.02 * (3 - number))
        return 200, chat(str(number))

    server.replies = [reply]
    assert [c.text for c in ask(build(server), prompts[:3])] == ["0", "1", "2"]


def test_no_more_requests_at_a_time_than_allowed(server, prompts):
    def reply(body):
        time.sleep(0.05)
        return 200, chat("x")

    server.replies = [reply]
    ask(build(server, concurrency=2), prompts)
    assert (len(server.requests), server.most_running) == (6, 2)


@pytest.mark.parametrize("status", [429, 503])
def test_asks_again_where_that_may_help(server, prompts, status):
    server.replies = [(status, error("busy")), (status, error("busy")), (200, chat("late"))]
    assert ask(build(server), prompts[:1])[0].text == "late"
    assert len(server.requests) == 3


def test_gives_up_after_the_retries_and_says_why(server, prompts):
    server.replies = [(500, error("out of memory"))]
    with pytest.raises(GenerationError, match=r"m: InternalServerError: .*out of memory"):
        ask(build(server, max_retries=2), prompts[:1])
    assert len(server.requests) == 3


def test_does_not_ask_again_where_that_cannot_help(server, prompts):
    server.replies = [(401, error("wrong key"))]
    with pytest.raises(GenerationError, match=r"AuthenticationError: .*wrong key"):
        ask(build(server), prompts[:1])
    assert len(server.requests) == 1


def test_a_reply_that_takes_too_long_is_given_up(server, prompts):
    def reply(body):
        time.sleep(0.6)
        return 200, chat("too late")

    server.replies = [reply]
    started_s = time.monotonic()
    with pytest.raises(GenerationError, match="APITimeoutError"):
        ask(build(server, timeout_s=0.1, max_retries=0), prompts[:1])
    assert time.monotonic() - started_s < 0.6


def test_nobody_there_is_an_error_of_the_request(server, prompts):
    engine = build(server, max_retries=0)
    server.shutdown()
    server.server_close()
    with pytest.raises(GenerationError, match="APIConnectionError"):
        ask(engine, prompts[:1])


@pytest.mark.parametrize("content", ["<html>hello</html>", {"id": "1", "object": "chat.completion", "choices": []}])
def test_a_reply_of_another_kind_is_an_error(server, prompts, content):
    server.replies = [(200, content)]
    with pytest.raises(GenerationError, match="m: the reply is no chat completion"):
        ask(build(server), prompts[:1])


def test_an_empty_answer_is_an_answer_and_a_cut_one_is_marked(server, prompts):
    server.replies = [(200, chat(None, finish="length", usage=None))]
    (completion,) = ask(build(server), prompts[:1])
    assert (completion.text, completion.finish_reason, completion.usage) == ("", "length", None)


def test_parameters_that_a_service_refuses_are_renamed_or_left_out_for_good(server, prompts):
    def reply(body):
        if "max_tokens" in body:
            return 400, error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "seed" in body:
            return 422, error("extra fields not permitted: seed")
        return 200, chat("fine")

    server.replies = [reply]
    engine = build(server, concurrency=1)
    assert [c.text for c in ask(engine, prompts[:2], max_tokens=5)] == ["fine", "fine"]
    assert [("max_tokens" in body, "seed" in body) for body in server.requests] == [
        (True, True),
        (False, True),
        (False, False),
        (False, False),
    ]
    assert server.requests[-1]["max_completion_tokens"] == 5


def test_a_value_that_a_service_refuses_is_an_error(server, prompts):
    server.replies = [(400, error("temperature must be 1"))]
    with pytest.raises(GenerationError, match="temperature must be 1"):
        ask(build(server), prompts[:1], temperature=0.3)
    assert len(server.requests) == 1


def test_pause_waits_for_what_is_asked_and_holds_the_rest_until_resume(server, prompts):
    def reply(body):
        time.sleep(0.1)
        return 200, chat("x")

    server.replies = [reply]

    async def run():
        engine = build(server, concurrency=2)
        first = asyncio.ensure_future(engine.generate(prompts[:1], Sampling()))
        await asyncio.sleep(0.03)
        await engine.pause()
        assert len(server.requests) == 1 and server.running == 0
        second = asyncio.ensure_future(engine.generate(prompts[:1], Sampling()))
        await asyncio.sleep(0.1)
        assert not second.done() and len(server.requests) == 1
        await engine.resume()
        await asyncio.wait_for(asyncio.gather(first, second), 30)
        await engine.close()

    asyncio.run(run())
    assert len(server.requests) == 2


def test_concurrency_is_checked(server):
    with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
        build(server, concurrency=0)
