"""Decides what the documentation says of each game: all of it is read from the game's code."""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlmgym.contact_sheet import fit
from vlmgym.ladder import knobs, picture_size
from vlmgym.markdown import markdown_table
from vlmgym_envs.core import Game
from vlmgym_envs.gym import env_id
from vlmgym_envs.level import BoardLevel
from vlmgym_envs.registry import game_ids, level_ids, make_game
from vlmgym_policies.baselines import Demonstrator

IMAGE_PX = 320
NUM_COLORS = 64
"""Of a picture's file: pictures with noise would take ten times the space in all their colors."""
IMAGES_PER_ROW = 3
EXAMPLE_LEVEL = "paper"
SEED = 1
"""Of every board that is shown."""

SCORES = {"reward_sum": "the sum of its rewards", "positive_steps": "the number of its steps with a reward above 0"}

AnyGame = Game[Any, Any, Any]


class Header(NamedTuple):
    """What a game's module says of itself: "Name: sentence.", a table of rules, and notes below it."""

    name: str
    sentence: str
    rules: list[tuple[str, str]]
    notes: str


def game_pages() -> dict[str, bytes]:
    """Every file of docs/games by its path there: <id>.md, images/<id>-<level>.png, README.md."""
    files: dict[str, bytes] = {}
    index: list[tuple[str, Header]] = []
    for game_id in game_ids():
        games = [make_game(game_id, level) for level in level_ids(game_id)]
        header = read_header(sys.modules[type(games[0]).__module__].__doc__ or "")
        files[f"{game_id}.md"] = _page(games, header).encode()
        files |= {image_path(game): picture_file(game) for game in games}
        index.append((game_id, header))
    files["README.md"] = _index(index).encode()
    return files


def image_path(game: AnyGame) -> str:
    """Where the picture of a game's level lies, seen from its page."""
    return f"images/{game.id}-{game.level_name}.png"


def picture_file(game: AnyGame) -> bytes:
    """A PNG file of a mid-game board, at most IMAGE_PX wide and high; small ones are enlarged."""
    picture = fit(game.render(game.mid_game(SEED)), IMAGE_PX)
    file = io.BytesIO()
    picture.quantize(NUM_COLORS, Image.Quantize.FASTOCTREE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def read_header(docstring: str) -> Header:
    """The parts of a module's docstring; a row whose first cell is empty goes on with the row above.

    >>> read_header("Chess: a war.\\n\\n| State | board |\\n| Ends  | when the king\\n|       | is lost |").rules
    [('State', 'board'), ('Ends', 'when the king is lost')]
    """
    lines = [line.strip() for line in docstring.splitlines()]
    name, _, sentence = lines[0].partition(": ")
    rules: list[tuple[str, str]] = []
    notes: list[str] = []
    for line in lines[1:]:
        if not line.startswith("|"):
            notes.append(line)
            continue
        key, _, text = line.removeprefix("|").removesuffix("|").partition("|")
        if key.strip():
            rules.append((key.strip(), text.strip()))
        else:
            rules[-1] = (rules[-1][0], f"{rules[-1][1]} {text.strip()}")
    return Header(name, sentence[:1].upper() + sentence[1:], rules, "\n".join(notes).strip())


def _page(games: Sequence[AnyGame], header: Header) -> str:
    example = next(game for game in games if game.level_name == EXAMPLE_LEVEL)
    parts = [
        f"# {header.name}",
        "<!-- Written by `vlmgym docs` from the code of the game; change it there. -->",
        header.sentence,
        f"![A board at level {EXAMPLE_LEVEL}]({image_path(example)})",
        "## Rules",
        markdown_table(["", ""], header.rules),
        *([header.notes] if header.notes else []),
        "## Try it",
        f"```bash\nvlmgym play {example.id} --level {games[0].level_name}\nvlmgym levels {example.id}\n```",
        f'```python\nenv = gymnasium.make("{env_id(example.id)}", level="{EXAMPLE_LEVEL}")\n```',
        *_spaces_and_reward(example),
        *_levels(games),
        *_teachers(example),
        f"## Prompt\n\nAt level `{EXAMPLE_LEVEL}`:",
        f"```text\n{example.prompt}\n```",
        *_example(example),
    ]
    return "\n\n".join(parts) + "\n"


def _spaces_and_reward(game: AnyGame) -> list[str]:
    rows = [
        ("Observation", f"the picture, uint8 [{', '.join(map(str, game.image_shape))}]"),
        ("Action", f"`{game.action_space!r}`; as text, what stands in `<answer>`"),
        ("Reward", "as in the rules; a refused action costs `illegal_reward`, -1 by default"),
        ("Score of a game", SCORES[game.score]),
        ("Info", "`text`, the exact perception text; `state`; `prompt`; `refused`, a reason or None"),
    ]
    trained = (
        "Training with GRPO pays +1 for an action that the game rewards and -1 for any other, refused ones included; "
        "`raw` and `legal` are the other choices of `reward` in `GroupEnvConfig`."
    )
    shape = f"## Spaces and reward\n\nThrough Gymnasium, at level `{EXAMPLE_LEVEL}`:"
    return [shape, markdown_table(["", ""], rows), trained]


def _levels(games: Sequence[AnyGame]) -> list[str]:
    rows = [[f"`{knob.name}`", knob.axis, knob.rule, *map(str, knob.values)] for knob in knobs(games[0])]
    rows.append(["picture, px", "", "", *(picture_size(game.image_shape) for game in games)])
    table = markdown_table(["knob", "axis", "allowed", *(f"`{game.level_name}`" for game in games)], rows)
    pictures = [f"![{game.level_name}]({image_path(game)})" for game in games]
    chunks = [slice(start, start + IMAGES_PER_ROW) for start in range(0, len(games), IMAGES_PER_ROW)]
    boards = [markdown_table([f"`{game.level_name}`" for game in games[chunk]], [pictures[chunk]]) for chunk in chunks]
    scale = f"A mid-game board of each, scaled to at most {IMAGE_PX} px:"
    classes = [games[0].level_class, *([BoardLevel] if issubclass(games[0].level_class, BoardLevel) else [])]
    return ["## Levels\n\nEasiest first.", *(inspect.getdoc(each) or "" for each in classes), table, scale, *boards]


def _teachers(game: AnyGame) -> list[str]:
    own = inspect.getdoc(vars(type(game)).get("teachers")) or ""
    names = ", ".join(f"`{name}`" for name in game.teachers)
    return ["## Teachers", f"{names}.", *([own] if own else [])]


def _example(game: AnyGame) -> list[str]:
    state = game.mid_game(SEED)
    response = Demonstrator(game, {"solver": 1.0}).demonstrate(state, np.random.default_rng(SEED))
    return [
        f"## Example\n\nThe board at level `{EXAMPLE_LEVEL}` above reads",
        f"```text\n{game.describe(state)}\n```",
        "and the solver answers",
        f"```text\n{response}\n```",
    ]


def _index(games: Sequence[tuple[str, Header]]) -> str:
    rows = [
        (
            f"[{header.name}]({game_id}.md)",
            f"`{game_id}`",
            header.sentence,
            ", ".join(f"`{x}`" for x in level_ids(game_id)),
        )
        for game_id, header in games
    ]
    parts = [
        "# Games",
        "<!-- Written by `vlmgym docs`. -->",
        "A page per game: rules, spaces, reward, levels with pictures, teachers and the prompt.",
        "Teachers of every game: `solver`, its best; `greedy`, uniform over the legal actions that pay most at once; "
        "`legal_random` and `random`, uniform over the legal actions and over all.",
        markdown_table(["game", "id", "", "levels, easiest first"], rows),
        "The pages are written from the code by `vlmgym docs`; a test fails where they differ from it.",
    ]
    return "\n\n".join(parts) + "\n"
