import asyncio
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vlmgym.errors import BadInput
from vlmgym.evals.log import Policy
from vlmgym.evals.policies import find_policy, history_of, load_function, open_engine, trained_max_tokens
from vlmgym_envs.core import Game
from vlmgym_policies.engine import Engine, Sampling
from vlmgym_policies.history import History
from vlmgym_policies.prompting import make_prompt

AnyGame = Game[Any, Any, Any]


@pytest.mark.parametrize("name", ["random", "legal_random", "greedy", "solver", "path_blind"])
def test_every_teacher_of_the_game_is_a_policy(game: AnyGame, name: str) -> None:
    assert find_policy(name, game) == Policy(spec=name, kind="teacher", name=name)


@pytest.mark.parametrize(
    ("spec", "model", "url"),
    [
        ("openai:gpt-4o", "gpt-4o", None),
        ("openai:Qwen/Qwen2.5-VL-7B@http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-VL-7B", "http://127.0.0.1:8000/v1"),
        ("openai:some@001@https://host/v1", "some@001", "https://host/v1"),
    ],
)
def test_an_endpoint_is_a_model_and_a_url(game: AnyGame, spec: str, model: str, url: str | None) -> None:
    assert find_policy(spec, game) == Policy(spec=spec, kind="endpoint", name=model, url=url)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slover", "unknown policy 'slover', did you mean 'solver'? Known: solver, greedy, "),
        ("", "unknown policy ''. Known: "),
        ("openai:", "policy must be openai:MODEL@URL with a URL that starts with http:// or https://, got 'openai:'"),
        ("openai:m@localhost:8000", "starts with http:// or https://, got 'openai:m@localhost:8000'"),
        ("runs/nothing", "policy 'runs/nothing' is no directory"),
        ("no_such_module:answer", "policy 'no_such_module:answer': no module named 'no_such_module'"),
        ("looking.deeper:answer", "policy 'looking.deeper:answer': no module named 'looking.deeper'"),
        ("looking:anwser", "unknown function 'anwser', did you mean 'answer'?"),
        ("looking:asked", "policy 'looking:asked': asked must be callable, got list"),
    ],
)
def test_a_spec_that_names_nobody_is_refused(game: AnyGame, looking: ModuleType, spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        find_policy(spec, game)


def test_a_function_is_known_by_its_source(game: AnyGame, looking: ModuleType) -> None:
    policy = find_policy("looking:answer", game)
    assert (policy.kind, policy.name) == ("function", "looking:answer")
    assert find_policy("looking:answer", game) == policy
    assert looking.__file__ is not None
    with open(looking.__file__, "a") as file:
        file.write("# another policy\n")
    assert find_policy("looking:answer", game).fingerprint != policy.fingerprint


def test_functions_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_me.py").write_text(
        "class Group:\n    @staticmethod\n    def answer(images, prompts): return [7]\n"
    )
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path])
    monkeypatch.chdir(tmp_path)
    assert load_function("beside_me:Group.answer")([], []) == [7]


def test_what_a_module_raises_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load_function("lacking:answer")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory as training leaves it, as far as names go: two checkpoints of GRPO, one of the cold start."""
    run = tmp_path / "runs" / "demo"
    for name in ("cold_start-000300", "grpo-000040", "grpo-000080"):
        model = run / "checkpoints" / name / "learner_group" / "learner" / "rl_module" / "policy" / "hf"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text(name)
        (run / "checkpoints" / name / "checkpoint.json").write_text("{}")
    (run / "job.yaml").write_text("sampling: {max_tokens: 48}\n")
    return run


def test_a_directory_is_a_model_a_checkpoint_or_a_run(game: AnyGame, run_dir: Path) -> None:
    last = run_dir / "checkpoints" / "grpo-000080"
    model = last / "learner_group" / "learner" / "rl_module" / "policy" / "hf"
    found = [find_policy(str(path), game) for path in (run_dir, last, model)]
    assert [policy.name for policy in found] == [str(model)] * 3
    assert [policy.spec for policy in found] == [str(run_dir), str(last), str(model)]
    assert {policy.kind for policy in found} == {"model"}
    assert set(found[0].engine) == {"device", "dtype"}
    assert trained_max_tokens(found[0]) == trained_max_tokens(found[2]) == 48
    assert history_of(found[0]) == History()
    (run_dir / "job.yaml").write_text("prompt: {history: {turns: all, pictures: 2}}")
    assert history_of(found[2]) == History("all", 2) and history_of(found[2], "3") == History(3, 2)


def test_other_weights_are_another_policy(game: AnyGame, run_dir: Path) -> None:
    before = find_policy(str(run_dir), game)
    assert find_policy(str(run_dir), game) == before
    os.utime(Path(before.name) / "model.safetensors", ns=(1, 1))
    after = find_policy(str(run_dir), game)
    assert after.name == before.name and after.fingerprint != before.fingerprint


def test_a_directory_without_a_model_is_refused(game: AnyGame, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no model"):
        find_policy(str(tmp_path), game)


def test_only_a_model_in_a_run_has_a_trained_bound(game: AnyGame, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert trained_max_tokens(find_policy(str(tmp_path), game)) is None
    assert trained_max_tokens(find_policy("solver", game)) is None
    assert history_of(find_policy("solver", game)) == History()


def ask(policy: Policy, game: AnyGame) -> tuple[str, str]:
    async def run() -> tuple[str, str]:
        async with open_engine(policy, game, concurrency=2, timeout_s=1.0, max_retries=0) as engine:
            assert isinstance(engine, Engine)
            state = game.mid_game(1)
            prompt = make_prompt(game.prompt, game.render(state), state)
            (completion,) = await engine.generate([prompt], Sampling(max_tokens=8))
            return type(engine).__name__, completion.text

    return asyncio.run(run())


def test_each_kind_has_its_engine(game: AnyGame, looking: ModuleType, make_model: Any) -> None:
    specs = ("solver", "looking:answer", str(make_model(0)))
    names, texts = zip(*(ask(find_policy(spec, game), game) for spec in specs), strict=True)
    assert names == ("ScriptedEngine", "FunctionEngine", "HFEngine")
    assert "<answer>" in texts[0] and "<answer>" in texts[1]


def test_an_endpoint_without_a_key_is_one_line(game: AnyGame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="policy 'openai:gpt-4o': OPENAI_API_KEY must be set"):
        ask(find_policy("openai:gpt-4o", game), game)
