"""Every shell command in README and docs is run, parsed by what will read it, or, for a cluster, rendered.

RULES decides which: a command belongs to the first rule whose pattern fits all of it, and one that fits none fails.
What takes long is run in short: with the options in SHORT, after those of the text.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import yaml
from documented import ROOT, blocks, code_spans, commands
from typer.main import get_command

from vlmgym.cli import app, command_for, main
from vlmgym.evals.policies import find_policy
from vlmgym.job import JobFile
from vlmgym_envs.registry import make_game

Check = Callable[["Desk", list[str]], None]


class Desk(NamedTuple):
    """Where a reader stands: a folder with the files of the repository in it. trained: what the training printed."""

    folder: Path
    trained: str
    capsys: pytest.CaptureFixture[str]

    def vlmgym(self, *arguments: str) -> str:
        """What the command prints; it must end well."""
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = self.capsys.readouterr()
        assert ended.value.code == 0, told.err
        return told.out


class Rule(NamedTuple):
    """pattern: of whole commands. kind: what the check comes to."""

    pattern: str
    kind: Literal["run", "parsed", "cluster"]
    check: Check


SHORT = {
    "train": "cold_start.updates=2 cold_start.eval_every=2 cold_start.warmup_updates=0 cold_start.batch_size=4 "
    "grpo.iterations=1 grpo.groups=2 grpo.group_size=2 grpo.warmup_iterations=0 evaluation.num_states=4 "
    "engine.num_cpus=0.5 learners.num_cpus=0.5 env_runners.num_cpus=0 tracking.wandb=offline",
    "eval": "--runs 2 --steps 2 --no-video --no-ceilings",
    "data": "--num 6",
}


def short_training(*overrides: str) -> list[str]:
    return [word for override in [*SHORT["train"].split(), *overrides] for word in ("--set", override)]


# What is run


def trains(desk: Desk, words: list[str]) -> None:
    """The fixture did: all that follows needs the run."""
    assert words == ["vlmgym", "train", "jobs/shisen.yaml"]
    assert "results in runs/shisen" in desk.trained and "after GRPO" in desk.trained
    assert (desk.folder / "runs/shisen/summary.json").exists()


def resumes(desk: Desk, words: list[str]) -> None:
    assert "nothing to resume" in desk.vlmgym(*words[1:], *short_training())


def runs(desk: Desk, words: list[str]) -> None:
    assert desk.vlmgym(*words[1:])


def plans(desk: Desk, words: list[str]) -> None:
    assert "name: " in desk.vlmgym(*words[1:])


def runs_as_program(desk: Desk, words: list[str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(words, cwd=desk.folder, env=environment, capture_output=True, text=True, check=True)
    assert "name: shisen" in done.stdout


def evaluates(desk: Desk, words: list[str]) -> None:
    assert "vlmgym: results in results/" in desk.vlmgym(*words[1:], *SHORT["eval"].split())


def plans_evaluation(desk: Desk, words: list[str]) -> None:
    """Of a policy behind a URL, which is not asked."""
    assert "policy       endpoint" in desk.vlmgym(*words[1:], "--dry-run")


def writes_data(desk: Desk, words: list[str]) -> None:
    assert desk.vlmgym(*words[1:], *SHORT["data"].split())
    assert (desk.folder / words[-1] / "dataset.json").exists()


def inspects_data(desk: Desk, words: list[str]) -> None:
    if not Path(words[-1]).exists():  # unless the command above it on the page was tested before
        writes_data(desk, ["vlmgym", "data", "make", "shisen_sho:tiny", "maze:tiny", "--out", words[-1]])
    assert desk.vlmgym(*words[1:])


def reports(desk: Desk, words: list[str]) -> None:
    assert "difference in points" in desk.vlmgym(*words[1:])
    assert list((desk.folder / words[-1]).glob("shisen-*.svg"))


def plays(desk: Desk, words: list[str]) -> None:
    """By a reader who leaves at once."""
    done = subprocess.run(
        [sys.executable, "-m", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert "score" in done.stdout.lower(), done.stdout


def looks_into_wandb(desk: Desk, words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True)
    assert "grpo/legal_move_rate" in done.stdout


# What is parsed


def parses(desk: Desk, words: list[str]) -> None:
    """As the command line does, without carrying it out; a job file in all its profiles, or the one asked for."""
    command: Any = get_command(app)
    names = [word.replace("grpo-000060", "grpo-000001") for word in words[1:]]  # the last checkpoint of a short run
    while hasattr(command, "commands"):
        name, *names = names
        command = command.commands[name]
    given = command.make_context("vlmgym", list(names)).params
    if "job_file" in given and given["job_file"] is not None:
        resolves(given["job_file"], given.get("profile"), given.get("overrides") or [])
    if "policy" in given:
        find_policy_later(given)


def submits(desk: Desk, words: list[str]) -> None:
    """Options that `submit` does not have are for the command that the file is for."""
    told = desk.vlmgym(*words[1:], "--dry-run")
    assert f"working_dir   {ROOT}" in told
    entrypoint = told.splitlines()[0].removeprefix("entrypoint    ")
    words = shlex.split(entrypoint.removeprefix("python -m "))
    parses(desk, ["vlmgym", command_for(words[1]), *words[1:]])


def resolves(file: Path, profile: str | None, overrides: list[str]) -> None:
    read = JobFile.read(file)
    for name in [profile] if profile else list(read.profiles) or [None]:
        read.resolve(name, overrides)


def find_policy_later(given: dict[str, Any]) -> None:
    """A policy that exists once the runs have been made which the page is about."""
    run = re.fullmatch(r"runs/([\w-]+)", given["policy"])
    if run is not None:
        assert (ROOT / "jobs" / f"{run[1]}.yaml").is_file()
    else:
        find_policy(given["policy"], make_game(given["game"], given["level"] or "paper"))


def compares_later(desk: Desk, words: list[str]) -> None:
    """Logs that other commands of the pages write."""
    written = {command.partition(" --out ")[2] for command in commands()}
    assert set(words[2:]) <= written


def is_in_script(desk: Desk, words: list[str]) -> None:
    """`./run`: a word of its own, or a command."""
    script = (ROOT / "run").read_text()
    assert os.access(ROOT / "run", os.X_OK)
    match words[1:]:
        case []:
            assert "vlmgym train jobs/shisen.yaml ;;" in script
        case ["test", *arguments]:
            assert re.search(r"^ *test\) .*python -m pytest", script, re.MULTILINE)
            takes_pytest(arguments)
        case ["test-vllm"]:
            assert '"${1-}" == test-vllm' in script
        case ["CMD", "..."]:
            assert '*) exec "$@" ;;' in script
        case _:
            pytest.fail(f"no such word in ./run: {words}")


def is_made_by_script(desk: Desk, words: list[str]) -> None:
    """`./run` makes a virtual environment of that name."""
    assert 'use "$root/.venv" dev' in (ROOT / "run").read_text()


def takes_pytest(arguments: list[str]) -> None:
    """Paths exist, and markers are declared."""
    markers = [line.partition(":")[0] for line in (ROOT / "pyproject.toml").read_text().split('"')]
    for flag, value in zip(["", *arguments], arguments, strict=False):
        if flag == "-m":
            assert value in markers
        elif not value.startswith("-") and flag != "-k":
            assert (ROOT / value).exists()


def parses_ray(desk: Desk, words: list[str]) -> None:
    """As `ray` does; what is submitted, as our own command line does."""
    from ray.scripts.scripts import cli

    context = follow(cli, words[1:])
    entrypoint = context.params.get("entrypoint")
    if entrypoint:
        file, *rest = entrypoint
        assert os.access(ROOT / file, os.X_OK)
        parses(desk, ["vlmgym", command_for(file), file, *rest])


def parses_wandb(desk: Desk, words: list[str]) -> None:
    from wandb.cli.cli import cli

    paths = [str(path) for word in words if "/" in word for path in Path().glob(word)]
    assert len(paths) == 1
    follow(cli, [*(word for word in words[1:] if "/" not in word), *paths])


def follow(group: Any, words: list[str]) -> Any:
    """The context of the command that a group of click has for the words, options parsed."""
    name, *rest = words
    command = group.get_command(None, name)
    assert command is not None, name
    if hasattr(command, "commands"):
        return follow(command, rest)
    return command.make_context(name, rest)


# What a cluster is needed for


def renders(desk: Desk, words: list[str]) -> None:
    """`kubectl apply -k FOLDER`."""
    assert len(rendered(words[-1])) > 2


def rendered(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", ROOT / folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def reaches_for_a_server(desk: Desk, words: list[str]) -> None:
    """kubectl takes the words, and fails for want of a cluster alone; objects of ours are in an overlay."""
    done = subprocess.run([*words, "--server", "http://127.0.0.1:9"], capture_output=True, text=True, check=False)
    assert "refused" in done.stderr, done.stderr
    overlay = rendered("k8s/overlays/gpu-cluster")
    clusters = [each["metadata"]["name"] for each in overlay if each["kind"] == "RayCluster"]
    named = [word.partition("/")[2].removesuffix("-head-svc") for word in words if word.startswith("service/")]
    assert named in ([], clusters)


def makes_secret(desk: Desk, words: list[str]) -> None:
    """A secret with the keys that pods read."""
    done = subprocess.run([*words, "--dry-run=client", "-o", "yaml"], capture_output=True, text=True, check=True)
    secret = yaml.safe_load(done.stdout)
    pod = (ROOT / "k8s/pod/pod.yaml").read_text()
    assert f"name: {secret['metadata']['name']}" in pod
    assert namespaces() == {secret["metadata"]["namespace"]}


def installs_operator(desk: Desk, words: list[str]) -> None:
    """The version that the page names, in the namespace of the manifests."""
    options = dict(pairwise(words))
    assert (
        f"KubeRay](https://github.com/ray-project/kuberay) {options['--version'].rpartition('.')[0]}"
        in (ROOT / "k8s/README.md").read_text()
    )
    assert namespaces() == {options["--namespace"]}


def namespaces() -> set[str]:
    overlays = [path / "kustomization.yaml" for path in (ROOT / "k8s/overlays").iterdir()]
    return {named for path in overlays if (named := yaml.safe_load(path.read_text()).get("namespace"))}


def exports_token(desk: Desk, words: list[str]) -> None:
    """The variables of Ray's token; the command inside asks the cluster for a secret."""
    assert [word.partition("=")[0] for word in words[1:3]] == ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN"]
    inner = re.search(r"\$\((.*?) \|", " ".join(words))
    assert inner is not None
    reaches_for_a_server(desk, shlex.split(inner[1]))


def with_its_game(desk: Desk, words: list[str]) -> None:
    """Run in test_code_blocks.py, where the game of the page exists."""
    assert "harvest" in words or "game.id=harvest" in words


RULES = [
    Rule(r".*\bharvest\b.*", "run", with_its_game),
    Rule(r"vlmgym train jobs/shisen\.yaml", "run", trains),
    Rule(r"vlmgym train jobs/shisen\.yaml --resume", "run", resumes),
    Rule(r"vlmgym train .*--dry-run", "run", plans),
    Rule(r"jobs/shisen\.yaml --dry-run", "run", runs_as_program),
    Rule(r"vlmgym eval .*--policy (runs/shisen|legal_random|mine:answer) .*", "run", evaluates),
    Rule(r"vlmgym eval .*--policy openai:.*", "run", plans_evaluation),
    Rule(r"vlmgym data make .*--teacher openai:.*", "parsed", parses),
    Rule(r"vlmgym data make .*", "run", writes_data),
    Rule(r"vlmgym data inspect data/two", "run", inspects_data),
    Rule(r"vlmgym levels \w+", "run", runs),
    Rule(r"vlmgym play .*", "run", plays),
    Rule(r"vlmgym view (runs/shisen|results/mine)", "run", runs),
    Rule(r"vlmgym compare results/mine results/other", "run", runs),
    Rule(r"vlmgym report runs/shisen .*", "run", reports),
    Rule(r"vlmgym serve runs/shisen --dry-run", "run", runs),
    Rule(r"vlmgym dashboard .*", "run", runs),
    Rule(r"vlmgym submit .*", "run", submits),
    Rule(r"vlmgym compare .*", "parsed", compares_later),
    Rule(r"vlmgym (train|eval|serve|bench|view|report) .*", "parsed", parses),
    Rule(r"\./run( .*)?", "parsed", is_in_script),
    Rule(r"source \.venv/bin/activate", "parsed", is_made_by_script),
    Rule(r"ray (start|job submit) .*", "parsed", parses_ray),
    Rule(r"wandb leet inspect .*", "run", looks_into_wandb),
    Rule(r"wandb sync .*", "parsed", parses_wandb),
    Rule(r"kubectl apply -k .*", "cluster", renders),
    Rule(r"kubectl .*create secret .*", "cluster", makes_secret),
    Rule(r"kubectl .*port-forward .*", "cluster", reaches_for_a_server),
    Rule(r"helm install .*", "cluster", installs_operator),
    Rule(r"export RAY_AUTH_MODE=.*", "cluster", exports_token),
]


def rule_of(command: str) -> Rule | None:
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, command)), None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[tuple[Path, str]]:
    """A folder with what the pages speak of, and what the training printed: a run of the demo, in short, two
    evaluations, and a function of one's own."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("jobs", "k8s", "platform", "envs", "policies", "run"):
        (folder / name).symlink_to(ROOT / name)
    (mine,) = (block.text for block in blocks("python") if block.text.startswith("# mine.py\nimport random"))
    (folder / "mine.py").write_text(mine)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for name in ("WANDB_API_KEY", "VLMGYM_HOME", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("OPENAI_API_KEY", "none")
        printed = ended_well("train", "jobs/shisen.yaml", "--profile", "laptop", *short_training())
        for policy, out in (("runs/shisen", "results/mine"), ("legal_random", "results/other")):
            asked = f"eval --game shisen_sho --level tiny --policy {policy} --out {out}"
            ended_well(*asked.split(), *SHORT["eval"].split())
        (folder / "path/to").mkdir(parents=True)
        (folder / "path/to/model").symlink_to(folder / "runs/shisen/model")
        yield folder, printed


def ended_well(*arguments: str) -> str:
    """What a command prints, for a fixture that has no capsys."""
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return printed.getvalue()


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_its_page_says(
    command: str, desk: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rule = rule_of(command)
    assert rule is not None, f"{commands()[command]}: no rule for this command"
    rule.check(Desk(*desk, capsys), shlex.split(command.removesuffix(" &")))


def test_no_rule_is_left_without_a_command() -> None:
    used = {rule.pattern for rule in map(rule_of, commands()) if rule is not None}
    assert [rule.pattern for rule in RULES if rule.pattern not in used] == []


def test_a_command_without_a_rule_is_found() -> None:
    assert rule_of("rm -r runs") is None and rule_of("vlmgym tain jobs/shisen.yaml") is None


SPANS = sorted({(page, code) for page, code in code_spans() if re.match(r"vlmgym [a-z]+( |$)", code)})


@pytest.mark.parametrize(("page", "code"), SPANS)
def test_a_command_within_a_sentence_has_such_a_name_and_options(page: str, code: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(code)[1:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: {code}"
        command = command.commands[words.pop(0)]
        if not words:
            return
    known = {spelling for option in command.params for spelling in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, f"{page}: {code}"


def test_extras_that_are_named_exist() -> None:
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    named = {extra for _, code in code_spans() for extra in re.findall(r"vlmgym\[([\w-]+)\]", code)}
    assert named and named <= set(extras)
