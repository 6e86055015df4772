"""Live play in a real browser: real clicks and keys, before a scripted endpoint."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_endpoint import Refusal, ScriptedEndpoint

from vlmgym.viewer.live.server import LiveServer
from vlmgym_envs.registry import level_ids, make_game
from vlmgym_policies.answers import write_response

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
MAZE = make_game("maze", "tiny")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, live: LiveServer) -> Iterator[Any]:
    """The page of live play; a fault in its program, or a request to anybody else, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: request.url.startswith((live.url, "data:")) or faults.append(request.url))
    page.goto(live.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert faults == []


def game_of(seed: int, num_bad: int = 0) -> list[str]:
    """The solver's answers from the start to the goal; the first `num_bad` boards are perceived wrong."""
    state, replies = MAZE.init(seed), list[str]()
    while action := [MAZE.solve(state)] if MAZE.legal_actions(state) else []:
        board = MAZE.describe(state)
        if len(replies) < num_bad:
            board = board.replace("wall", "goal", 1)
        replies.append(write_response(board, f"<b>Step</b> {len(replies) + 1}.", MAZE.format_answer(action[0])))
        state = MAZE.step(state, action[0]).state
    return replies


def played(page: Any) -> int:
    return int(page.locator("#turns button").count())


def wait_for_turns(page: Any, num: int) -> None:
    page.wait_for_function(
        f"document.querySelectorAll('#turns button').length === {num} && !document.querySelector('.writing')"
    )


def test_thoughts_appear_while_they_are_written_and_then_the_move_is_marked(
    page: Any, endpoint: ScriptedEndpoint
) -> None:
    assert page.inner_text("#policy") == f"shisen-7b at {endpoint.url}"
    assert page.inner_text("#score") == "Score 0" and page.locator("#board canvas").is_visible()
    assert page.locator("#board .move").count() == 0
    endpoint.replies = game_of(3, num_bad=1)
    endpoint.go.clear()
    page.click("#next")
    page.wait_for_function("document.getElementById('wrote').textContent !== ''")
    assert page.locator("#wrote.writing").is_visible() and page.locator("#wrote .answer").count() == 0
    assert page.inner_text("#state") == "turn 1 is being played" and page.locator("#next").is_disabled()
    endpoint.go.set()
    wait_for_turns(page, 1)
    assert page.locator("#wrote .block").count() == 3 and "<b>Step</b> 1." in page.inner_text("#wrote .think")
    assert page.locator("#board .move path").count() == 1 and page.locator("#board .best path").count() == 1
    assert page.locator("#board .error").count() == 1 and "Misread cell (1)" in page.inner_text("#wrong")
    assert page.inner_text("#score") == "Score 1"
    assert "Reward\n+1.0" in page.inner_text("#facts") and "Regret\n0 steps" in page.inner_text("#facts")


def test_it_plays_by_itself_to_the_end_and_turns_can_be_looked_at_again(page: Any, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = game_of(3)
    num = len(endpoint.replies)
    assert num > 3
    page.click("#auto")
    assert page.inner_text("#auto") == "Pause"
    page.wait_for_function("document.getElementById('state').textContent === 'won'")
    assert played(page) == num and page.inner_text("#score") == f"Score {num}"
    assert page.locator("#next").is_disabled() and page.locator("#auto").is_disabled()
    page.click("#turns button >> nth=1")
    assert page.inner_text("#heading") == "Turn 2" and "Step 2." in page.inner_text("#wrote").replace(
        "</b>", ""
    ).replace("<b>", "")
    page.keyboard.press(".")
    assert page.inner_text("#heading") == "Turn 3"
    page.keyboard.press(",")
    page.keyboard.press(",")
    assert page.inner_text("#heading") == "Turn 1"


def test_pause_ends_after_the_turn_and_stop_in_the_middle_of_it(page: Any, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = game_of(3)
    endpoint.go.clear()
    page.keyboard.press("a")
    page.wait_for_selector("#wrote.writing")
    page.keyboard.press("a")
    assert page.inner_text("#auto") == "Auto"
    endpoint.go.set()
    wait_for_turns(page, 1)
    page.wait_for_timeout(1200)
    assert played(page) == 1 and len(endpoint.requests) == 1
    endpoint.go.clear()
    page.keyboard.press("n")
    page.wait_for_selector("#wrote.writing")
    page.keyboard.press("Escape")
    page.wait_for_selector("#wrote:not(.writing)", state="attached")
    assert played(page) == 1 and page.locator("#error").is_hidden()
    endpoint.go.set()


def test_what_the_endpoint_says_against_it_is_shown_and_the_turn_can_be_tried_again(
    page: Any, endpoint: ScriptedEndpoint
) -> None:
    endpoint.replies = [Refusal(400, "the picture is <too> large"), *game_of(3)]
    page.click("#auto")
    page.wait_for_selector("#error:not([hidden])")
    assert "400" in page.inner_text("#error") and "the picture is <too> large" in page.inner_text("#error")
    assert page.inner_text("#auto") == "Auto" and played(page) == 0
    page.click("#next")
    wait_for_turns(page, 1)
    assert page.locator("#error").is_hidden() and page.inner_text("#score") == "Score 1"


def test_an_endpoint_that_is_away_is_told(page: Any, endpoint: ScriptedEndpoint) -> None:
    endpoint.shutdown()
    endpoint.server_close()
    page.click("#next")
    page.wait_for_selector("#error:not([hidden])")
    assert "APIConnectionError" in page.inner_text("#error")


def test_bad_answers_cost_turns_and_end_playing_by_itself(page: Any, endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = ["I do not know."] * 9
    page.evaluate("() => { window.setTimeout = (run) => { queueMicrotask(run); return 0; }; }")
    page.click("#auto")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "paused: the last 5 answers were refused"
    assert played(page) == 5 and len(endpoint.requests) == 5
    assert "Refused\nthe response has no <answer> block" in page.inner_text("#facts")
    assert "names none" in page.inner_text("#facts") and page.inner_text("#score") == "Score 0"


def test_another_game_level_and_seed_can_be_chosen(page: Any, endpoint: ScriptedEndpoint) -> None:
    page.select_option("#game", "twenty48")
    assert page.locator("#level option").all_inner_texts() == list(level_ids("twenty48"))
    page.select_option("#level", "tiny")
    page.fill("#seed", "5")
    page.click("#new")
    page.wait_for_function("document.querySelector('#board canvas').width === 48")
    game = make_game("twenty48", "tiny")
    state = game.init(5)
    endpoint.replies = [write_response(game.describe(state), "", game.format_answer(game.solve(state)))]
    page.click("#next")
    wait_for_turns(page, 1)
    assert endpoint.requests[0]["messages"][0]["content"][1]["text"] == game.prompt
    assert "Perception\nexact" in page.inner_text("#facts")
    page.fill("#seed", "-1")
    page.evaluate("document.getElementById('choice').noValidate = true")
    page.click("#new")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "seed must be at least 0, got -1"


def test_keys_are_told_and_the_theme_changes(page: Any) -> None:
    page.keyboard.press("?")
    assert page.locator("#help").is_visible() and "play by itself" in page.inner_text("#help")
    page.keyboard.press("Escape")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != before
