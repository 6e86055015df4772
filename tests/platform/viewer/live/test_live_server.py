"""What the server of live play tells, asked over HTTP."""

import base64
import json
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection
from typing import Any

import pytest
from scripted_endpoint import Broken, Refusal, ScriptedEndpoint

from vlmgym.cli import main
from vlmgym.errors import BadInput
from vlmgym.viewer.live.endpoint import read_endpoint
from vlmgym.viewer.live.games import MAX_GAMES
from vlmgym.viewer.live.server import LiveServer
from vlmgym_envs.registry import game_ids, level_ids, make_game
from vlmgym_policies.answers import write_response
from vlmgym_policies.prompting import png

MAZE = make_game("maze", "tiny")


def post(live: LiveServer, path: str, value: Any, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        live.url + path, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def begin(live: LiveServer, game: str = "maze", level: str = "tiny", seed: int = 3) -> Any:
    status, body = post(live, "game", {"game": game, "level": level, "seed": seed})
    assert status == 200
    return json.loads(body)


def turn(live: LiveServer, name: str) -> list[Any]:
    status, body = post(live, "turn", {"name": name})
    assert status == 200
    return [json.loads(line) for line in body.splitlines()]


def best(state: Any) -> str:
    return write_response(MAZE.describe(state), " This way. ", MAZE.format_answer(MAZE.solve(state)))


def test_a_game_is_played_to_its_end_turn_by_turn(live: LiveServer, endpoint: ScriptedEndpoint) -> None:
    game, state, score, over = begin(live), MAZE.init(3), 0.0, False
    assert game["about"] == {
        **{"game": "maze", "level": "tiny", "seed": 3, "unit": "steps"},
        **{"tile_px": MAZE.level.tile_px, "border_px": MAZE.level.border_px},
    }
    board = game["board"]
    while not over:
        picture = png(MAZE.render(state))
        assert base64.b64decode(board["picture"].partition(",")[2]) == picture
        assert board["cells"] == MAZE.cells(MAZE.describe(state))
        endpoint.replies = [best(state)]
        *texts, last = turn(live, game["name"])
        assert len(texts) > 5 and "".join(event["text"] for event in texts) == best(state)
        step = MAZE.step(state, MAZE.solve(state))
        score += step.reward
        told, board = last["turn"], last["board"]
        assert (told["response"], told["move"]) == (best(state), MAZE.format_answer(MAZE.solve(state)))
        assert (told["refused"], told["errors"], told["regret"], told["best"]) == (None, [], 0.0, told["move"])
        assert (told["reward"], told["score"], told["over"]) == (step.reward, score, step.terminated)
        asked = endpoint.requests[-1]
        assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("shisen-7b", 0.5, 99)
        shown, text = asked["messages"][0]["content"]
        assert text["text"] == MAZE.prompt
        assert base64.b64decode(shown["image_url"]["url"].partition(",")[2]) == picture
        state, over = step.state, step.terminated
    assert told["won"] is True and score > 0
    assert len({request["seed"] for request in endpoint.requests}) == len(endpoint.requests)
    assert post(live, "turn", {"name": game["name"]}) == (409, b'{"error": "the game has ended"}')


def test_a_bad_answer_costs_a_turn_and_says_what_was_wrong(live: LiveServer, endpoint: ScriptedEndpoint) -> None:
    game, state = begin(live), MAZE.init(3)
    wall = next(action for action in range(4) if action not in MAZE.legal_actions(state))
    board = MAZE.describe(state).replace("wall", "goal", 1)
    endpoint.replies = [write_response(board, "Hm.", MAZE.format_answer(wall)), "I do not know."]
    told = turn(live, game["name"])[-1]
    assert told["turn"]["refused"] == MAZE.step(state, wall).refused and told["turn"]["regret"] > 0
    assert [error[2] for error in told["turn"]["errors"]] == ["wrong_tile"] and told["board"] == game["board"]
    told = turn(live, game["name"])[-1]["turn"]
    assert (told["move"], told["refused"], told["score"]) == (None, "the response has no <answer> block", 0.0)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Refusal(404, "no such model"), "shisen-7b: NotFoundError: Error code: 404 - no such model"),
        (Refusal(401, "wrong key"), "AuthenticationError: Error code: 401"),
        (Broken("<perception>"), "the stream ended before its response did"),
    ],
)
def test_an_endpoint_that_fails_is_told_and_the_game_stays_as_it_is(
    live: LiveServer, endpoint: ScriptedEndpoint, reply: Refusal | Broken, message: str
) -> None:
    game = begin(live)
    endpoint.replies = [reply, best(MAZE.init(3))]
    last = turn(live, game["name"])[-1]
    assert list(last) == ["error"] and message in last["error"]
    assert turn(live, game["name"])[-1]["turn"]["refused"] is None


def test_who_plays_is_told_and_an_endpoint_that_is_away(live: LiveServer, endpoint: ScriptedEndpoint) -> None:
    def policy() -> Any:
        with urllib.request.urlopen(live.url + "policy", timeout=20) as reply:
            return json.loads(reply.read())

    assert policy() == {"model": "shisen-7b", "url": endpoint.url}
    endpoint.models = []
    assert policy() == {"error": f"{endpoint.url} lists no model", "url": endpoint.url}
    endpoint.shutdown()
    endpoint.server_close()
    assert "APIConnectionError" in policy()["error"]


def test_the_key_goes_to_the_endpoint_and_not_to_the_page(live: LiveServer, endpoint: ScriptedEndpoint) -> None:
    game = begin(live)
    endpoint.replies = [best(MAZE.init(3))]
    told = json.dumps(turn(live, game["name"]))
    with urllib.request.urlopen(live.url, timeout=20) as reply:
        page = reply.read().decode()
    assert endpoint.keys == ["Bearer a-secret-key"]
    assert "a-secret-key" not in told + page + json.dumps(game)


def test_a_reader_who_leaves_ends_the_response_at_the_endpoint(live: LiveServer, endpoint: ScriptedEndpoint) -> None:
    """The one that is cut would have taken ten seconds, and plays nothing."""
    game, state = begin(live), MAZE.init(3)
    endpoint.word_delay_s = 0.01
    endpoint.replies = ["and so on " * 350 + best(state), best(state)]
    connection = HTTPConnection("127.0.0.1", live.server_address[1], timeout=20)
    connection.request("POST", "/turn", json.dumps({"name": game["name"]}), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert json.loads(reply.readline()) == {"text": "and "}
    status, body = post(live, "turn", {"name": game["name"]})
    assert status == 409 and b"is being played already" in body
    reply.close()
    connection.close()
    started = time.monotonic()
    while endpoint.num_cut == 0:
        assert time.monotonic() < started + 8
        time.sleep(0.01)
    told = turn(live, game["name"])[-1]["turn"]
    assert told["refused"] is None and told["best"] == MAZE.format_answer(MAZE.solve(state))


def test_the_page_knows_all_games_and_levels(live: LiveServer) -> None:
    with urllib.request.urlopen(live.url, timeout=20) as reply:
        page = reply.read().decode()
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    index = json.loads(page.split('id="index">')[1].partition("</script>")[0])
    assert index["games"] == {game: list(level_ids(game)) for game in game_ids()}
    assert index["first"] == {"game": "maze", "level": "tiny", "seed": 3}
    assert "http://" not in page.replace("http://www.w3.org/", "")


@pytest.mark.parametrize(
    ("path", "value", "status", "error"),
    [
        ("game", {"game": "mase", "level": "tiny", "seed": 0}, 400, "did you mean 'maze'?"),
        ("game", {"game": "maze", "level": "tiny", "seed": -1}, 400, "seed must be at least 0, got -1"),
        ("game", {"game": "maze"}, 400, "missing 2 required positional arguments"),
        ("turn", {"name": "gone"}, 404, "this game is gone"),
        ("turn", {"name": "x" * 20_000}, 400, "at most 10000 bytes"),
        ("elsewhere", {}, 404, ""),
    ],
)
def test_what_makes_no_sense_is_refused(live: LiveServer, path: str, value: Any, status: int, error: str) -> None:
    found, body = post(live, path, value)
    assert found == status and error in body.decode()


def test_pages_of_others_may_not_play(live: LiveServer) -> None:
    value = {"game": "maze", "level": "tiny", "seed": 0}
    assert post(live, "game", value, Host="evil.example:80")[0] == 403
    assert post(live, "game", value, **{"Content-Type": "text/plain"})[0] == 403


def test_the_oldest_games_are_forgotten(live: LiveServer) -> None:
    first = begin(live)["name"]
    for seed in range(MAX_GAMES):
        begin(live, seed=seed)
    assert post(live, "turn", {"name": first})[0] == 404


@pytest.mark.parametrize(
    ("spec", "url", "model"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", None),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1", None),
        ("https://host/api", "https://host/api", None),
        ("openai:a@b@http://h:1/v1", "http://h:1/v1", "a@b"),
    ],
)
def test_an_endpoint_is_named_as_serve_prints_it(spec: str, url: str, model: str | None) -> None:
    endpoint = read_endpoint(spec, temperature=0.0, max_tokens=1, timeout_s=1.0)
    assert (endpoint.url, endpoint.model) == (url, model)


def test_other_specs_are_refused() -> None:
    with pytest.raises(BadInput, match="--play takes http://HOST:PORT/v1 or openai:MODEL@URL, got 'host:8000'"):
        read_endpoint("host:8000", temperature=0.0, max_tokens=1, timeout_s=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "view takes either RUN or --play URL"),
        (["runs/x", "--play", "http://h/v1"], "view takes either RUN or --play URL"),
        (["--play", "http://h/v1", "--game", "mase"], "did you mean 'maze'?"),
        (["--play", "http://h/v1", "--level", "tini"], "did you mean 'tiny'?"),
    ],
)
def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["view", *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
