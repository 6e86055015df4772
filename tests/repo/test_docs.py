"""The pages of the games say what the code does, and every link in docs/ leads somewhere."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmgym.cli import main
from vlmgym.commands_page import commands_page
from vlmgym.game_pages import IMAGE_PX, game_pages, read_header
from vlmgym.job_page import job_page
from vlmgym.tracking.grafana import grafana_dashboard
from vlmgym.tracking.page import metrics_page
from vlmgym_envs.registry import game_ids, level_ids

DOCS = Path(__file__).resolve().parents[2] / "docs"
GAMES = DOCS / "games"
MAX_BYTES = 1_500_000


@pytest.fixture(scope="module")
def pages() -> dict[str, bytes]:
    return game_pages()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_every_game_and_level_has_its_page_and_picture_and_no_file_is_left_over(pages: dict[str, bytes]) -> None:
    found = {path.relative_to(GAMES).as_posix() for path in GAMES.rglob("*") if path.is_file()}
    expected = {f"{game}.md" for game in game_ids()} | {"README.md"}
    expected |= {f"images/{game}-{level}.png" for game in game_ids() for level in level_ids(game)}
    assert found == expected == set(pages), "run `vlmgym docs`"


def test_the_pages_are_those_that_the_code_gives(pages: dict[str, bytes]) -> None:
    for name, content in pages.items():
        if name.endswith(".md"):
            assert (GAMES / name).read_text(encoding="utf-8") == content.decode(), f"{name}: run `vlmgym docs`"


def test_the_pictures_are_those_that_the_code_draws(pages: dict[str, bytes]) -> None:
    for name, content in pages.items():
        if name.endswith(".png"):
            drawn, kept = pixels(content), pixels((GAMES / name).read_bytes())
            assert np.array_equal(drawn, kept), f"{name}: run `vlmgym docs`"
            assert max(drawn.shape) <= IMAGE_PX and len(np.unique(drawn)) > 2


def test_the_pages_are_small(pages: dict[str, bytes]) -> None:
    assert sum(map(len, pages.values())) < MAX_BYTES


def test_the_command_writes_them_and_names_what_is_left_over(
    pages: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmgym.game_pages.game_pages", lambda: pages)
    games = tmp_path / "games"
    games.mkdir()
    (games / "chess.md").write_text("# Chess")
    with pytest.raises(SystemExit) as ended:
        main(["docs", "--out", str(games)])
    assert ended.value.code == 0
    assert {name: (games / name).read_bytes() for name in pages} == pages
    assert capsys.readouterr().out.splitlines() == [
        f"vlmgym: {len(pages)} files in {games}",
        f"vlmgym: {games / 'chess.md'} belongs to no game: delete it",
        f"vlmgym: {tmp_path / 'metrics.md'}",
        f"vlmgym: {tmp_path / 'grafana.json'}",
        f"vlmgym: {tmp_path / 'jobs.md'}",
        f"vlmgym: {tmp_path / 'commands.md'}",
    ]
    assert (tmp_path / "metrics.md").read_text() == metrics_page()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("metrics.md", metrics_page),
        ("grafana.json", grafana_dashboard),
        ("jobs.md", job_page),
        ("commands.md", commands_page),
    ],
)
def test_a_page_beside_those_of_the_games_is_what_the_code_gives(name: str, make: Callable[[], str]) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == make(), "run `vlmgym docs`"


def test_the_page_of_jobs_has_every_knob_with_its_rule() -> None:
    lines = job_page().splitlines()
    rule = "a number above 0 to 1 | the ratio is clipped below 1 - clip_low; 1 is no bound"
    assert f"| `grpo.clip_low` | `0.2` | {rule} |" in lines
    assert "## `tracking.alerts`" in lines and any(line.startswith("| `model.lora.rank` |") for line in lines)


def test_the_page_of_commands_has_groups_choices_and_defaults() -> None:
    lines = commands_page().splitlines()
    assert "## vlmgym bench envs" in lines and "## vlmgym docs" not in lines
    steps = "paper: at most 100 steps; full: to the end of the game."
    assert f"| `--protocol` | `paper` | `paper`, `full` | {steps} |" in lines
    assert "| `--seed` | `0` | from 0 | Of the starts and the answers. |" in lines


@pytest.mark.parametrize("game_id", game_ids())
def test_a_page_tells_the_rules(pages: dict[str, bytes], game_id: str) -> None:
    page = pages[f"{game_id}.md"].decode()
    for row in ("State", "Action", "Reward", "Ends", "Solver", "Source"):
        assert re.search(rf"^\| {row} \| \S", page, re.MULTILINE), row


def test_a_header_is_a_name_a_sentence_and_rules() -> None:
    text = "Go: surrounds.\n\n| State  | a | b\n|        | and more |\n| Action | a point |\n\nOld.\n"
    rules = [("State", "a | b and more"), ("Action", "a point")]
    assert read_header(text) == ("Go", "Surrounds.", rules, "Old.")


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link
