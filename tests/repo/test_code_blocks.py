"""Every Python block of README and docs is executed, those of a page in order; every YAML block is a (part of a) job.

Names that a page takes for granted are given to it by GIVEN; what is a placeholder in the text, or too long for a test,
is replaced by REPLACED.
"""

import ast
import asyncio
import base64
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import gymnasium
import pytest
from documented import ROOT, blocks

import vlmgym_envs  # registers the games
from vlmgym.cli import main
from vlmgym.job import JobFile
from vlmgym.yaml12 import parse_yaml
from vlmgym_envs.registry import make_game
from vlmgym_policies.engine import Engine, Sampling, make_engine
from vlmgym_policies.prompting import make_prompt, png

PYTHON_PAGES = list(dict.fromkeys(block.page for block in blocks("python")))
A_GAME, AN_ENGINE = "docs/how-to/add-a-game.md", "docs/how-to/add-an-engine.md"
SLOW = {"README.md"}
"""Pages whose blocks train for longer."""

REPLACED: Mapping[str, Mapping[str, str]] = {
    "README.md": {
        '"path/to/model"': "str(MODEL)",
        '"/absolute/path/of/checkpoint"': "str(FOLDER / 'checkpoint')",
        '"group_size": 8': '"group_size": 2',
        "num_groups_per_train_batch=32": "num_groups_per_train_batch=4",
        '"training_iteration": 60': '"training_iteration": 1',
        "num_engines=1": "num_engines=1, num_cpus_per_engine=0.5",
    },
    "docs/engines.md": {
        '"vllm", path="Qwen/Qwen2.5-VL-7B-Instruct", tensor_parallel=2, max_model_len=8192': '"hf", path=str(MODEL)',
        "max_tokens=1024": "max_tokens=4",
    },
    "docs/how-to/add-an-algorithm.md": {'"path/to/model"': "str(MODEL)"},
}
Names = dict[str, Any]


def for_engines(names: Names) -> Names:
    import torch

    from vlmgym_policies.processing import load_vlm

    game = make_game("shisen_sho", "tiny")
    state = game.mid_game(0)
    prompts = [make_prompt(game.prompt, game.render(state), state)]
    weights = load_vlm(str(names["MODEL"]), torch.float32).state_dict()
    return {"make_engine": make_engine, "Sampling": Sampling, "prompts": prompts, "weights": weights}


def for_evaluation(names: Names) -> Names:
    """The log that the page reads."""
    asked = "eval --game shisen_sho --level tiny --policy solver --out results/mine --runs 1 --steps 2 --no-video"
    with pytest.raises(SystemExit, match="0"):
        main([*asked.split(), "--no-ceilings"])
    return {}


def for_data(names: Names) -> Names:
    """The data set that the page reads."""
    pytest.importorskip("datasets")
    with pytest.raises(SystemExit, match="0"):
        main(["data", "make", "shisen_sho:tiny", "maze:tiny", "--num", "6", "--out", "data/two"])
    return {}


GIVEN: Mapping[str, Callable[[Names], Names]] = {
    **{f"docs/games/{game}.md": lambda names: {"gymnasium": gymnasium} for game in vlmgym_envs.game_ids()},
    "docs/data.md": for_data,
    "docs/engines.md": for_engines,
    "docs/evaluation.md": for_evaluation,
}
ELSEWHERE = {A_GAME, "docs/serving.md"}
"""Pages with a test of their own, below."""


def run_page(page: str, names: Names) -> Names:
    """Executes the blocks of a page in one namespace, and returns it. Every replacement must find its text."""
    names |= GIVEN.get(page, lambda names: {})(names)
    found = [block for block in blocks("python") if block.page == page]
    replaced = REPLACED.get(page, {})
    assert all(any(old in block.text for block in found) for old in replaced), f"{page}: {list(replaced)}"
    for block in found:
        text = block.text
        for old, new in replaced.items():
            text = text.replace(old, new)
        code = compile(text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
    return names


@pytest.fixture
def names(make_model: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.chdir(tmp_path)
    return {"__name__": "page", "MODEL": make_model(0), "FOLDER": tmp_path}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PYTHON_PAGES
        if page not in ELSEWHERE
    ],
)
def test_the_python_of_a_page_runs(page: str, names: Names, ray_session: None) -> None:
    run_page(page, names)


def test_no_setting_is_left_without_a_page() -> None:
    assert GIVEN.keys() | REPLACED.keys() | ELSEWHERE | SLOW <= set(PYTHON_PAGES)


def test_the_config_in_the_readme_is_valid(names: Names) -> None:
    first = next(block for block in blocks("python") if block.page == "README.md")
    exec(first.text.partition("algo = ")[0].replace('"path/to/model"', "str(MODEL)"), names)
    names["config"].validate()
    assert names["config"].num_groups_per_train_batch == 32


def test_options_of_vllm_in_the_page_on_engines_exist() -> None:
    from vlmgym_policies.engines.vllm import VLLMEngine

    (text,) = (block.text for block in blocks("python") if block.page == "docs/engines.md")
    call = ast.parse(text.splitlines()[0]).body[0].value  # type: ignore[attr-defined]
    inspect.signature(VLLMEngine.__init__).bind(None, **{word.arg: None for word in call.keywords})


def test_the_engine_of_its_page_elects_what_most_answers_say(names: Names) -> None:
    page = run_page(AN_ENGINE, names)
    engine, game, state = page["engine"], page["game"], page["state"]
    assert isinstance(engine, Engine)
    words = iter(["<answer>a</answer>", "no answer", "<answer>b</answer>", "<answer>a</answer>"])
    scripted = make_engine("scripted", writer=lambda prompt, rng: next(words))
    prompt = make_prompt(game.prompt, game.render(state), state)
    (completion,) = asyncio.run(page["MajorityEngine"](scripted, votes=4).generate([prompt], Sampling()))
    assert completion.text == "<answer>a</answer>"


def test_the_client_in_the_page_on_serving_is_answered(names: Names) -> None:
    """By the API itself, without a network between."""
    import openai
    from starlette.testclient import TestClient

    from vlmgym.serving.api import ChatApi
    from vlmgym.serving.metrics import ServeMetrics
    from vlmgym.serving.served_policy import ServedPolicy
    from vlmgym.serving.settings import ServeSettings

    settings = ServeSettings(model="shisen", max_tokens=8)
    policy = ServedPolicy(settings)
    asyncio.run(policy.load(str(names["MODEL"])))
    app = ChatApi(policy, settings, create_autospec(ServeMetrics, instance=True), key_sha256=None).app
    game = make_game("shisen_sho", "tiny")
    picture = png(game.render(game.mid_game(0)))
    with TestClient(app) as http:
        here = SimpleNamespace(OpenAI=partial(openai.OpenAI, http_client=http))
        page = run_page("docs/serving.md", names | {"openai": here, "base64": base64, "png": picture, "game": game})
    policy.close()
    assert page["reply"].model == "shisen" and page["reply"].choices[0].message.content


@pytest.fixture(scope="module")
def with_harvest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the games and that of the page, and an environment in which they are what is imported."""
    folder = tmp_path_factory.mktemp("harvest")
    for root in ("envs", "policies", "platform"):  # Ray's workers import from where the running code lies
        shutil.copytree(ROOT / root, folder / root, ignore=shutil.ignore_patterns("__pycache__"))
    (text,) = (block.text for block in blocks("python") if block.page == A_GAME)
    (folder / "envs/vlmgym_envs/games/harvest.py").write_text(text)
    roots = [folder / "envs", folder / "policies", folder / "platform", ROOT / "tests"]
    return folder, {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))}


def ask(with_harvest: tuple[Path, dict[str, str]], *words: str) -> str:
    folder, environment = with_harvest
    command = [sys.executable, "-m", *words]
    options: Any = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_game_of_its_page_keeps_the_contract_of_games(with_harvest: tuple[Path, dict[str, str]]) -> None:
    """All of it but that two processes see the same, which starts two that draw every level of every game."""
    contract = str(ROOT / "tests/envs/test_game_contract.py")
    paths = f"pythonpath={with_harvest[1]['PYTHONPATH'].replace(os.pathsep, ' ')}"
    chosen = ["-k", "harvest and not other_processes", "-n0", "-q", "-o", paths, "--rootdir", str(ROOT)]
    told = ask(with_harvest, "pytest", contract, "-c", str(ROOT / "pyproject.toml"), *chosen)
    assert " passed" in told and "failed" not in told
    assert int(told.rpartition(" passed")[0].split()[-1]) > 30


def test_the_game_of_its_page_can_be_shown_and_played(with_harvest: tuple[Path, dict[str, str]]) -> None:
    assert "kinds" in ask(with_harvest, "vlmgym", "levels", "harvest")
    assert "score" in ask(with_harvest, "vlmgym", "play", "harvest", "--level", "tiny").lower()


@pytest.mark.slow
def test_the_game_of_its_page_can_be_trained(with_harvest: tuple[Path, dict[str, str]]) -> None:
    (command,) = (
        line
        for block in blocks("bash")
        if block.page == A_GAME
        for line in block.text.splitlines()
        if line.startswith("vlmgym train")
    )
    _, *words = command.split()
    job = str(ROOT / words[1])
    assert "results: runs/harvest" in ask(with_harvest, "vlmgym", words[0], job, *words[2:])


BASE = {"name": "base", "game": {"id": "shisen_sho"}, "model": {"tiny": True}}


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_a_yaml_block_is_a_job_or_a_part_of_one(block: Any) -> None:
    values = parse_yaml(block.text)
    profiles = values.pop("profiles", {})
    file = JobFile(ROOT / block.page, values if "name" in values else BASE | values, profiles)
    for profile in profiles or [None]:
        assert file.resolve(profile)


def test_blocks_are_in_languages_that_are_tested() -> None:
    assert {block.language for block in blocks()} <= {"bash", "python", "yaml", "text"}
