"""Serves the page on which a policy plays, on this machine alone, and asks the endpoint: no key reaches the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vlmgym.viewer.live.endpoint import Endpoint
from vlmgym.viewer.live.games import LiveGame, LiveGames
from vlmgym.viewer.server import HOST
from vlmgym_policies.engine import GenerationError

MAX_BODY_BYTES = 10_000
Event = dict[str, Any]


class LiveServer(ThreadingHTTPServer):
    """GET / is the page, GET /policy who plays; POST /game begins a game, POST /turn plays a turn of it.

    A turn is told as lines of JSON while it is played: {"text"} for what the response grew by, then {"turn", "board"},
    or {"error"}. port 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, page: str, endpoint: Endpoint, games: LiveGames, port: int) -> None:
        self.page = page
        self.endpoint = endpoint
        self.games = games
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not self._is_from_here():
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "/":
            self._send(HTTPStatus.OK, "text/html", self.server.page.encode())
        elif path == "/policy":
            self._send_json(HTTPStatus.OK, _policy(self.server.endpoint))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        routes: dict[str, Callable[..., None]] = {"/game": self._begin, "/turn": self._play}
        if not self._is_from_here() or self.headers.get_content_type() != "application/json":
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path not in routes:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            try:
                routes[self.path](**json.loads(self._body()))
            except (TypeError, ValueError) as error:
                self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _begin(self, game: str, level: str, seed: int) -> None:
        name, begun = self.server.games.begin(game, level, seed)
        self._send_json(HTTPStatus.OK, {"name": name, "about": begun.about(), "board": begun.board()})

    def _play(self, name: str) -> None:
        try:
            game = self.server.games.get(name)
        except KeyError:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "this game is gone: begin a new one"})
            return
        if game.is_over or not game.busy.acquire(blocking=False):
            reason = "the game has ended" if game.is_over else "a turn of this game is being played already"
            self._send_json(HTTPStatus.CONFLICT, {"error": reason})
            return
        try:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            # Where nobody listens any more, writing fails, which ends the response at the endpoint too.
            with suppress(ConnectionError):
                asyncio.run(self._tell(game))
        finally:
            game.busy.release()

    async def _tell(self, game: LiveGame) -> None:
        async with aclosing(_turn(self.server.endpoint, game)) as events:
            async for event in events:
                self.wfile.write(json.dumps(event).encode() + b"\n")

    def _is_from_here(self) -> bool:
        """Not from a page of somebody else, whose name leads to this machine."""
        return self.headers.get("Host", "").rpartition(":")[0] in (HOST, "localhost")

    def _body(self) -> bytes:
        """Errors: ValueError where it is too long."""
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY_BYTES:
            raise ValueError(f"a request must have at most {MAX_BODY_BYTES} bytes, got {length}")
        return self.rfile.read(length)

    def _send_json(self, status: HTTPStatus, value: object) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not told."""


def _policy(endpoint: Endpoint) -> Event:
    try:
        return {"model": asyncio.run(endpoint.find_model()), "url": endpoint.url}
    except GenerationError as error:
        return {"error": str(error), "url": endpoint.url}


async def _turn(endpoint: Endpoint, game: LiveGame) -> AsyncGenerator[Event, None]:
    """One turn of a game, as it is played; one that failed leaves the game as it is."""
    prompt, seed = game.question()
    try:
        async with aclosing(endpoint.stream(prompt, seed)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield {"text": delta.text}
                if delta.completion is not None:
                    played = game.play(delta.completion.text, cut=delta.completion.finish_reason == "length")
                    yield {"turn": played, "board": game.board()}
    except GenerationError as error:
        yield {"error": str(error)}
