"""A teacher behind a URL, whose answers are known: what is kept of them, what is rejected, and why."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_endpoint import JsonHandler

from vlmgym.cli import main
from vlmgym.dataset.directory import REJECTED_FILE, DataSet, read_lines
from vlmgym.dataset.records import RejectedAnswer, Row
from vlmgym.demonstrations import rng_of, start_of
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_policies.answers import write_response
from vlmgym_policies.prompting import png

GAME = make_game("twenty48", "tiny")
KINDS = ("good", "blind", "illegal", "bare", "cut", "down")


class Endpoint(ThreadingHTTPServer):
    """Knows the states behind the pictures. kinds: how it answers about a picture, the first time and later."""

    daemon_threads = True

    def __init__(self, kinds: dict[bytes, list[str]], states: dict[bytes, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kinds = kinds
        self.states = states
        self.asked: list[bytes] = []
        self.lock = threading.Lock()


class _Handler(JsonHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture, text = body["messages"][-1]["content"]
        assert text["text"] == GAME.prompt
        image = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        with self.server.lock:
            self.server.asked.append(image)
            kinds = self.server.kinds[image]
            kind = kinds.pop(0) if len(kinds) > 1 else kinds[0]
        if kind == "down":
            self.reply_json(400, {"error": {"message": "no such luck", "type": "x", "code": None, "param": None}})
            return
        message = {"role": "assistant", "content": respond(kind, self.server.states[image])}
        choice = {"index": 0, "finish_reason": "length" if kind == "cut" else "stop", "message": message}
        self.reply_json(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def respond(kind: str, state: Any) -> str:
    board, legal = GAME.describe(state), GAME.legal_actions(state)
    best = GAME.format_answer(GAME.solve(state))
    match kind:
        case "blind":
            return write_response(board.replace("2", "4", 1) + "|", "I guess.", best)
        case "illegal":
            return write_response(board, "Why not?", GAME.format_answer(next(a for a in range(4) if a not in legal)))
        case "bare":
            return f"<answer>{best}</answer>"
    return f"Sure! {write_response(board, 'It merges.', f' {best} ')} Anything else?"


def pictures_of(num: int) -> dict[bytes, Any]:
    """The states that the command comes to first, by picture."""
    env = GroupEnvConfig(game="twenty48", level="tiny")
    states = [start_of(GAME, env, rng_of(0, index)).state for index in range(num)]
    return {png(GAME.render(state)): state for state in states}


def possible(kind: str, state: Any) -> str:
    return "bare" if kind == "illegal" and len(GAME.legal_actions(state)) == 4 else kind


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """Answers in every way, each about as often."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    states = pictures_of(200)
    rng = np.random.default_rng(0)
    kinds = {image: [possible(str(rng.choice(KINDS)), state)] for image, state in states.items()}
    with Endpoint(kinds, states) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def make(endpoint: Endpoint, out: Path, *arguments: object) -> int:
    url = f"http://127.0.0.1:{endpoint.server_address[1]}/v1"
    command = ["data", "make", "twenty48:tiny", "--teacher", f"openai:m@{url}", "--out", out, *arguments]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in command])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def rejected_in(path: Path) -> list[RejectedAnswer]:
    return list(read_lines(path / REJECTED_FILE, RejectedAnswer))


REASONS = {"blind": "perception", "illegal": "refused", "bare": "malformed", "cut": "cut", "down": "failed"}


def test_only_exact_perception_and_legal_moves_are_kept_and_the_rest_is_counted_by_reason(
    endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert make(endpoint, out, "--num", 10, "--concurrency", 4, "--retries", 0) == 0
    rows: list[Row] = [row for _, row in DataSet(out).all_rows()]
    assert len(rows) == 10 and len(set(endpoint.asked)) == len(endpoint.asked)
    for row in rows:
        assert (row.think, row.cells, row.legal) == ("It merges.", 1.0, True)
        assert row.response == write_response(row.state, "It merges.", f" {row.action} ")
    asked = [endpoint.kinds[image][0] for image in endpoint.asked]
    expected = Counter(REASONS[kind] for kind in asked if kind != "good")
    counts = DataSet(out).about.counts[0]
    assert set(expected) == set(REASONS.values())
    assert counts.rejected == expected == Counter(answer.reason for answer in rejected_in(out))
    assert counts.asked == len(asked) and counts.kept == 10
    assert f"{expected['perception']} perception" in capsys.readouterr().out
    errors = {answer.error for answer in rejected_in(out) if answer.reason == "failed"}
    assert errors == {"m: BadRequestError: Error code: 400 - no such luck"}


def test_rewards_below_the_bound_are_rejected(endpoint: Endpoint, tmp_path: Path) -> None:
    """2048 pays a move that merges 1, another one -1; perception and format 1 each."""
    for image in endpoint.kinds:
        endpoint.kinds[image] = ["good"]
    assert make(endpoint, tmp_path / "data", "--num", 10, "--min-reward", 2) == 0
    rewards = [row.reward for _, row in DataSet(tmp_path / "data").all_rows()]
    assert rewards == [3.0] * 10
    lost = rejected_in(tmp_path / "data")
    assert lost and {(answer.reason, answer.reward) for answer in lost} == {("reward", 1.0)}


def test_a_state_is_asked_again_until_an_answer_is_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    for image in endpoint.kinds:
        endpoint.kinds[image] = ["blind", "bare", "good"]
    assert make(endpoint, tmp_path / "data", "--num", 4, "--attempts", 3) == 0
    counts = DataSet(tmp_path / "data").about.counts[0]
    assert (counts.asked, counts.kept, counts.rejected) == (4, 4, {"perception": 4, "malformed": 4})


def test_a_teacher_that_never_answers_ends_it_and_the_draft_goes_on_later(
    endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds, out = dict(endpoint.kinds), tmp_path / "data"
    endpoint.kinds = {image: ["down"] for image in kinds}
    assert make(endpoint, out, "--num", 10, "--retries", 0) == 2
    message = capsys.readouterr().err
    assert "answered none of 10 questions: m: BadRequestError" in message and "no such luck" in message
    assert not out.exists()
    endpoint.kinds = {image: ["good"] for image in kinds}
    assert make(endpoint, out, "--num", 10, "--retries", 0) == 0
    assert DataSet(out).about.counts[0].rejected == {}
