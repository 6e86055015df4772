"""A server that speaks OpenAI's chat completions and answers what it is told to, word by word."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class JsonHandler(BaseHTTPRequestHandler):
    """Of a server of tests: replies in JSON, and nothing in the log."""

    def reply_json(self, status: int, value: Any) -> None:
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None: ...


class Refusal(NamedTuple):
    status: int
    message: str


class Broken(NamedTuple):
    """Streams the text, and ends without an end."""

    text: str


class ScriptedEndpoint(ThreadingHTTPServer):
    """Gives the next of `replies` to each request: a text, a `Refusal` or a `Broken`.

    go: where it is cleared, a response waits after its first word. requests: the bodies received. num_cut: responses
    that nobody read to the end. word_delay_s: after each word.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[str | Refusal | Broken] = []
        self.requests: list[Any] = []
        self.keys: list[str | None] = []
        self.models = ["shisen-7b"]
        self.num_cut = 0
        self.word_delay_s = 0.0
        self.go = threading.Event()
        self.go.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(JsonHandler):
    server: ScriptedEndpoint

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.server.models]
        self.reply_json(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers["Authorization"])
        reply = self.server.replies.pop(0)
        if isinstance(reply, Refusal):
            self.reply_json(reply.status, {"error": {"message": reply.message}})
            return
        assert body["stream"] is True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = re.findall(r"\S+\s*|^\s+", reply.text if isinstance(reply, Broken) else reply)
        try:
            for number, word in enumerate(words):
                self._event({"content": word}, None)
                time.sleep(self.server.word_delay_s)
                if number == 0 and not self.server.go.is_set():
                    while not self.server.go.wait(0.02):
                        self._event({"content": ""}, None)
            if not isinstance(reply, Broken):
                self._event({}, "stop")
                self.wfile.write(b"data: [DONE]\n\n")
        except ConnectionError:
            self.server.num_cut += 1

    def _event(self, delta: dict[str, str], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()
