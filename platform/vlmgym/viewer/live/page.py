"""Decides what the page of live play knows from the start: the games and their levels, and which is shown first."""

from __future__ import annotations

from vlmgym.viewer.page import fill_page, json_element
from vlmgym_envs.registry import game_ids, level_ids
from vlmgym_policies.insight import ERRORS

STYLES = ("page.css", "live.css")
SCRIPTS = ("data.js", "board.js", "response.js", "keys.js", "live.js")


def build_live_page(game: str, level: str, seed: int) -> str:
    """The page. game, level, seed: of the first game. It talks to the server that it came from, and to nobody else."""
    index = {
        "games": {name: level_ids(name) for name in game_ids()},
        "first": {"game": game, "level": level, "seed": seed},
        "errors": dict(ERRORS),
        "outcomes": {},
        "layouts": [],
        "iterations": [],
    }
    return fill_page("live.html", "Live play", [json_element("index", index)], STYLES, SCRIPTS)
