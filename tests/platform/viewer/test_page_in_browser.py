"""The page in a real browser: real clicks and keys, one browser for all of them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlmgym.tracking.group_record import GroupRecord, read_groups
from vlmgym.viewer.page import build_page
from vlmgym.viewer.source import read_source

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

MINUS = "\N{MINUS SIGN}"
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def groups(run: Path) -> list[GroupRecord]:
    return [group for step in (2, 4) for group in read_groups(run / "rollouts" / f"grpo-{step:04d}")]


@pytest.fixture(scope="module")
def run(make_run) -> Path:
    """Groups 6 to 8 of iteration 2, 12 to 14 and the maze 9999 of iteration 4."""
    path = make_run()
    (path / "view.html").write_text(build_page(read_source(path)), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    """The page, opened from its file; any error in it, and any request it makes, fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
    page.goto((run / "view.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert faults == []


def heading(page: Any) -> str:
    return str(page.inner_text("#group h2")).split("\n")[0]


def found(page: Any) -> str:
    return str(page.inner_text("#found"))


def pixels(page: Any, selector: str) -> list[int]:
    """The colors in the middle of the four corner cells of a canvas, as one list."""
    program = """canvas => {
        const { width, height } = canvas;
        const places = [[8, 8], [width - 8, 8], [8, height - 8], [width - 8, height - 8]];
        return places.flatMap(([x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data]);
    }"""
    return page.eval_on_selector(selector, program)  # type: ignore[no-any-return]


def test_a_group_shows_its_responses_side_by_side(page: Any, groups: list[GroupRecord]) -> None:
    first = groups[0]
    assert heading(page).startswith("Group 6") and found(page) == "7 of 7 groups"
    assert page.locator(".card").count() == len(first.branches) == 4
    shown = [page.inner_text(f".card[data-branch='{number}'] .reward") for number in range(4)]
    assert shown == [f"+{branch.reward:.1f}" for branch in first.branches]
    signs = ["+" if branch.turns[0].game_reward > 0 else MINUS for branch in first.branches]
    advantages = [page.inner_text(f".card[data-branch='{number}'] .advantage") for number in range(4)]
    assert advantages == [f"A {sign}0.70" for sign in signs]
    assert f"Advantage\n{signs[0]}0.70" in page.inner_text("#response .facts")


def test_boards_are_drawn_as_the_model_saw_them(page: Any, groups: list[GroupRecord], run: Path) -> None:
    import numpy as np
    from PIL import Image

    group = groups[0]
    with Image.open(run / "rollouts" / "grpo-0002" / group.boards[0].picture) as picture:
        seen = np.asarray(picture.convert("RGB"))
    height, width, _ = seen.shape
    places = [(8, 8), (width - 8, 8), (8, height - 8), (width - 8, height - 8)]
    expected = [int(value) for x, y in places for value in (*seen[y, x], 255)]
    assert pixels(page, "#response canvas") == pixels(page, ".group-head canvas") == expected
    assert len(set(expected)) > 2


def test_a_click_on_a_response_shows_what_it_wrote(page: Any, groups: list[GroupRecord]) -> None:
    page.click(".card[data-branch='2']")
    turn = groups[0].branches[2].turns[0]
    assert page.inner_text("#response h2").startswith("Response 3")
    wrote = page.inner_text("#response .wrote")
    assert "<b>right</b>" in wrote and page.locator("#response .wrote .block").count() == 3
    assert page.locator("#response .errors tbody tr").count() == len(turn.errors)
    assert page.locator("#response .marks .error").count() == len(turn.errors)
    assert page.locator("#response .marks .move rect").count() == 2
    assert page.get_attribute(".card[data-branch='2']", "aria-pressed") == "true"


def test_a_misread_cell_is_marked_where_it_is_and_named(page: Any, groups: list[GroupRecord]) -> None:
    page.select_option("#filter-error", "some")
    wrong = [group for group in groups if any(turn.errors for branch in group.branches for turn in branch.turns)]
    assert found(page) == f"{len(wrong)} of 7 groups" and len(wrong) > 0
    number = next(i for i, branch in enumerate(wrong[0].branches) if branch.turns[0].errors)
    page.click(f".card[data-branch='{number}']")
    ((row, col, error, written), *_) = wrong[0].branches[number].turns[0].errors
    mark = page.locator("#response .marks .error").first
    assert (mark.locator("rect").get_attribute("x"), mark.locator("rect").get_attribute("y")) == ("0.04", "0.04")
    assert (row, col) == (0, 0) and f"wrote {written}" in mark.locator("title").text_content()
    assert error.replace("_", " ") in page.inner_text("#response .errors tbody")
    page.click("#mark-errors")
    assert page.locator(".marks .error").count() == 0


def test_the_solvers_move_is_shown_and_can_be_hidden(page: Any, groups: list[GroupRecord]) -> None:
    assert page.locator("#response .marks .best rect").count() == 2
    assert str(groups[0].boards[0].best) in page.inner_text(".group-facts")
    page.keyboard.press("s")
    assert page.locator(".marks .best").count() == 0
    assert page.locator("#mark-best").is_checked() is False


def test_keys_move_through_groups_responses_and_iterations(page: Any) -> None:
    page.keyboard.press("ArrowDown")
    assert heading(page).startswith("Group 7")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#response h2").startswith("Response 3")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#response h2").startswith("Response 2")
    page.keyboard.press("]")
    assert heading(page).startswith("Group 12") and "grpo 4" in page.inner_text("#group h2")
    page.keyboard.press("[")
    page.keyboard.press("ArrowUp")
    assert heading(page).startswith("Group 6")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    assert not page.locator("#help").is_visible() and heading(page).startswith("Group 6")


def test_filters_leave_what_matches(page: Any, groups: list[GroupRecord]) -> None:
    page.select_option("#filter-game", "maze")
    assert found(page) == "1 of 7 groups" and heading(page).startswith("Group 9999")
    page.click("#clear")
    page.select_option("#filter-iteration", "1")
    assert found(page) == "4 of 7 groups"
    page.click("#clear")
    page.fill("#filter-low", "3")
    many = [group for group in groups if any(branch.reward >= 3 for branch in group.branches)]
    assert found(page) == f"{len(many)} of 7 groups"
    page.fill("#filter-low", "99")
    assert found(page) == "0 of 7 groups" and "No group matches" in page.inner_text("#group")
    page.click("#clear")
    page.select_option("#filter-outcome", "refused")
    refused = [group for group in groups if any(turn.refused for each in group.branches for turn in each.turns)]
    assert found(page) == f"{len(refused)} of 7 groups"
    faded = [branch for branch in refused[0].branches if not branch.turns[0].refused]
    assert page.locator(".card.faded").count() == len(faded)
    page.click("#clear")
    page.select_option("#filter-order", "best")
    best = max(groups, key=lambda group: sum(branch.reward for branch in group.branches) / len(group.branches))
    page.locator(".row").first.click()
    assert heading(page).startswith(f"Group {best.group_id}")


def test_an_episode_is_replayed_with_the_slider(page: Any, groups: list[GroupRecord]) -> None:
    page.click("#row-6")
    maze = groups[-1]
    turns = maze.branches[0].turns
    assert heading(page).startswith("Group 9999") and len(turns) > 1
    page.focus("#turn")
    page.keyboard.press("End")
    assert page.inner_text("#turn-name") == "end" and "Turns" in page.inner_text("#response .facts")
    page.keyboard.press("Home")
    assert page.inner_text("#turn-name") == f"turn 1 / {len(turns)}"
    page.click("#forward")
    assert page.inner_text("#turn-name") == f"turn 2 / {len(turns)}"
    assert f"Move\n{turns[1].move}" in page.inner_text("#response .facts")
    page.click("#play")
    page.wait_for_function("document.getElementById('turn-name').textContent === 'end'")
    assert page.inner_text("#play") == "▶"


def test_curves_are_drawn_and_lead_to_their_groups(page: Any) -> None:
    page.click("#tab-curves")
    charts = page.locator(".chart")
    assert charts.count() == 2 and not page.locator("#view-groups").is_visible()
    reward = charts.filter(has_text="Reward")
    box = reward.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 16, box["y"] + box["height"] / 2)
    assert reward.locator("output").inner_text() == "4: 0.4"
    page.mouse.click(box["x"] + box["width"] - 16, box["y"] + box["height"] / 2)
    assert page.locator("#view-groups").is_visible() and found(page) == "4 of 7 groups"


def test_settings_cannot_run_as_a_program(page: Any) -> None:
    page.click("#tab-settings")
    assert "<script>alert(1)</script>" in page.inner_text("#settings")


def test_the_address_leads_back_to_what_was_shown(page: Any) -> None:
    page.click("#row-6")
    page.click(".card[data-branch='1']")
    page.keyboard.press(".")
    assert page.url.endswith("#groups/grpo-4/9999/2/1")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert heading(page).startswith("Group 9999") and page.inner_text("#response h2").startswith("Response 2")
    assert page.inner_text("#turn-name").startswith(("turn 2", "end"))


def test_light_and_dark(page: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != before


def test_many_groups_cost_the_list_no_more_rows(browser: Any, make_run, run: Path) -> None:
    """Ten times the groups: as many rows in the page, and the last one is reached by its scroll bar."""
    path = make_run(iterations=(1, 2, 3, 4), num_groups=60, num_branches=2)
    (path / "view.html").write_text(build_page(read_source(path)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((path / "view.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    assert found(page) == "241 of 241 groups"
    assert 5 < page.locator(".row").count() < 40
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.click("#row-240")
    assert heading(page).startswith("Group 9999")
    page.close()
