from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from vlmgym.job import JobError, JobFile, load_job, save_job
from vlmgym.stages import grpo_config
from vlmgym_policies.history import History
from vlmgym_policies.scoring import RewardWeights

WriteJob = Callable[..., Path]
COLD_START = "cold_start: {updates: 10, lr: 1e-3, teacher: {solver: 1}}"


def test_defaults_are_the_papers(write_job: WriteJob) -> None:
    job = load_job(write_job())
    assert (job.grpo.groups, job.grpo.group_size, job.grpo.iterations) == (128, 5, 400)
    assert (job.grpo.lr, job.grpo.kl_coeff, job.grpo.clip_low, job.grpo.clip_high) == (1e-6, 0.01, 0.2, 0.2)
    assert (job.grpo.weight_decay, job.grpo.grad_clip) == (0.01, 1.0)
    assert (job.sampling.temperature, job.sampling.max_tokens) == (1.0, 8192)
    assert (job.env_runners.count, job.env_runners.envs_per_runner) == (4, 32)
    assert job.cold_start is None


def test_the_rule_of_the_reward_reaches_the_environments(write_job: WriteJob) -> None:
    assert grpo_config(load_job(write_job()), "m").env_config["games"][0]["reward"] == "progress"
    raw = load_job(write_job(), overrides=["reward.rule=raw"])
    assert grpo_config(raw, "m").env_config["games"][0]["reward"] == "raw"


def test_the_objective_and_the_history_reach_the_algorithm(write_job: WriteJob) -> None:
    objective = "advantage: rloo, credit: turn, gamma: 0.9, loss: gspo, average_over: responses, entropy_coeff: 0.01"
    job = load_job(
        write_job(f"grpo: {{{objective}}}"), overrides=["prompt.history.turns=all", "prompt.history.pictures=1"]
    )
    config = grpo_config(job, "m")
    config.validate()
    assert config.advantage_rule == ("rloo", "turn", 0.9, 0.0) and config.history == History("all", 1)
    assert (config.loss, config.average_over, config.entropy_coeff) == ("gspo", "responses", 0.01)


def test_what_runners_ask_of_nodes_reaches_ray(write_job: WriteJob) -> None:
    assert grpo_config(load_job(write_job()), "m").custom_resources_per_env_runner == {}
    job = load_job(write_job("env_runners: {resources: {games: 0.5}, max_per_node: 4}"))
    asked = grpo_config(job, "m").custom_resources_per_env_runner
    assert asked == {"games": 0.5, "node:__internal_implicit_resource_vlmgym_env_runner": 0.25}


def test_reward_defaults_depend_on_the_game_and_each_weight_can_be_set(write_job: WriteJob) -> None:
    assert load_job(write_job()).mixture[0].reward.weights == RewardWeights(1.0, 0.0, 1.0)
    job = load_job(write_job(), overrides=["reward.perception=0.5"])
    assert job.mixture[0].reward.weights == RewardWeights(1.0, 0.5, 1.0)


def test_sections_merge_profile_then_overrides(write_job: WriteJob) -> None:
    path = write_job("grpo: {lr: 1e-3, groups: 8}\nprofiles:\n  small: {grpo: {groups: 4}, seed: 3}\n")
    job = load_job(path, "small", ["grpo.group_size=7", "seed=5"])
    assert (job.grpo.lr, job.grpo.groups, job.grpo.group_size, job.seed) == (1e-3, 4, 7, 5)
    assert load_job(path).grpo.groups == 8


def test_free_mappings_are_replaced_not_merged(write_job: WriteJob) -> None:
    path = write_job(f"{COLD_START}\nprofiles:\n  other: {{cold_start: {{teacher: {{random: 2}}}}}}\n")
    job = load_job(path, "other")
    assert job.cold_start is not None
    assert job.cold_start.teacher == {"random": 2.0}
    assert job.cold_start.updates == 10


def test_a_profile_can_drop_and_start_a_section(write_job: WriteJob) -> None:
    assert load_job(write_job(f"{COLD_START}\nprofiles: {{g0: {{cold_start: null}}}}"), "g0").cold_start is None
    started = load_job(write_job(f"profiles: {{g1: {{{COLD_START}}}}}"), "g1").cold_start
    assert started is not None and started.updates == 10


def test_resolving_changes_nothing_in_the_file(write_job: WriteJob) -> None:
    file = JobFile.read(write_job("grpo: {groups: 8}"))
    file.resolve(overrides=["grpo.groups=4"])
    assert file.resolve().grpo.groups == 8


def test_a_saved_job_loads_back_equal(write_job: WriteJob, tmp_path: Path) -> None:
    job = load_job(write_job(COLD_START), overrides=["grpo.lr=1e-6", "tracking.wandb=off", "game.overrides={rows: 4}"])
    save_job(job, tmp_path / "saved.yaml")
    assert load_job(tmp_path / "saved.yaml") == job


def test_a_job_cannot_be_changed(write_job: WriteJob) -> None:
    with pytest.raises(ValidationError):
        load_job(write_job()).grpo.lr = 1.0


def test_run_directory_carries_the_seed_unless_it_is_zero(write_job: WriteJob, tmp_path: Path) -> None:
    assert load_job(write_job()).run_dir == tmp_path / "runs" / "demo"
    assert load_job(write_job(), overrides=["seed=2"]).run_dir == tmp_path / "runs" / "demo-seed2"


def test_a_hub_name_needs_no_directory(write_job: WriteJob) -> None:
    job = load_job(write_job(), overrides=["model={path: Qwen/Qwen2.5-VL-7B-Instruct}"])
    assert job.model.path == "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.iteratons=3", "unknown key 'grpo.iteratons', did you mean 'grpo.iterations'?"),
        ("gmae={}", "unknown key 'gmae', did you mean 'game'?"),
        ("reward.zzz=1", "unknown key 'reward.zzz', reward has rule, game, perception, format"),
        ("game.id=shisen", "game: unknown game 'shisen', did you mean 'shisen_sho'?"),
        ("game.level=tny", "game: unknown level of shisen_sho 'tny', did you mean 'tiny'?"),
        ("game.overrides={rows: 40}", "game: rows must be in 2..16, got 40"),
        ("game.overrides={rowz: 4}", "game: unknown level knob 'rowz', did you mean 'rows'?"),
        ("game.overrides={level: 4}", "game: unknown level knob 'level'"),
        ("game=null", "one of game and games is required, and only one"),
        ("model={}", "model: one of path and tiny is required, and only one"),
        ("model.path=a/b", "model: one of path and tiny is required, and only one"),
        ("model={path: /no/such/model}", "model: path '/no/such/model' does not exist"),
        ("model={path: model}", "model: path 'model' does not exist"),
        ("prompt.history.turns=-1", "prompt.history.turns: turns must be a whole number of at least 0 or all, got -1"),
        ("prompt.history.pictures=some", "pictures must be a whole number of at least 0 or all, got 'some'"),
        ("grpo.advantage=gae", "grpo.advantage must be one of 'grpo', 'dr_grpo', 'rloo', "),
        ("grpo.lr=fast", "grpo.lr must be a number, got 'fast'"),
        ("grpo.lr=-1", "grpo.lr must be above 0, got -1"),
        ("grpo.lr=.nan", "grpo.lr must be a finite number, got nan"),
        ("grpo.group_size=1", "grpo.group_size must be at least 2, got 1"),
        ("grpo.groups=2.5", "grpo.groups must be a whole number, got 2.5"),
        ("grpo.groups='8'", "grpo.groups must be a whole number, got '8'"),
        ("grpo.adam_betas=[0.9, 1]", "grpo.adam_betas.1 must be below 1, got 1"),
        ("tracking.wandb=of", "tracking.wandb must be one of 'auto', 'online', 'offline' or 'off', got 'of'"),
        ("cold_start={updates: 1, lr: 1, teacher: {solvr: 1}}", "cold_start.teacher: unknown teacher 'solvr', did you"),
        (
            "cold_start={updates: 1, lr: 1, teacher: {solver: 0}}",
            "cold_start.teacher: teacher needs a weight above 0 for shisen_sho",
        ),
        (
            "cold_start={updates: 1, lr: 1, teacher: {}}",
            "cold_start.teacher: teacher needs a weight above 0 for shisen_sho",
        ),
        ("cold_start={updates: 1, teacher: {solver: 1}}", "cold_start.lr is required"),
        ("cold_start={updates: 9, lr: 1, teacher: {solver: 1}, warmup_updates: 10}", "cold_start: warmup_updates and"),
        ("evaluation.serve_replicas=-1", "evaluation.serve_replicas must be at least 0, got -1"),
        ("name='../up'", "name must match"),
        ("seed", "--set takes key.key=value, got 'seed'"),
        ("seed.x=1", "--set seed.x: seed holds a value, no keys"),
        ("seed={", "line 1, column 2"),
    ],
)
def test_bad_values_are_one_clear_line(write_job: WriteJob, override: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        load_job(write_job("seed: 0\n"), overrides=[override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a job must be a mapping, got null"),
        ("- 1", "a job must be a mapping, got [1]"),
        ("profiles: [x]", "profiles must map names to partial jobs"),
        ("a: 1\na: 1", "'a' stands here twice"),
        ("name: x", "model is required"),
        ("name: x\nprofiles: {small: {seed: 1}}", "(or choose a profile: small)"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as error:
        load_job(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_directory_without_a_config_is_no_model(write_job: WriteJob, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"it has no config\.json"):
        load_job(write_job(), overrides=[f"model={{path: {tmp_path}}}"])


def test_an_unknown_profile_is_named_with_the_known_ones(write_job: WriteJob) -> None:
    with pytest.raises(JobError, match="unknown profile 'lptop', did you mean 'laptop'"):
        load_job(write_job("profiles: {laptop: {}, gpu: {}}"), "lptop")


GAMES = """\
name: demo
games:
  - {id: shisen_sho, level: tiny, teacher: {path_blind: 1}}
  - {id: maze, level: tiny, weight: 2, reward: {perception: 0.25}, held_out_levels: [small]}
reward: {format: 0.5}
model: {tiny: true}
cold_start: {updates: 10, lr: 1e-3, teacher: {solver: 1}}
"""
CURRICULUM = "{axes: {size: [{rows: 5, cols: 5}, {rows: 7, cols: 7}], look: [{tile_px: 16}, {tile_px: 56}]}}"


def several(tmp_path: Path, text: str = GAMES) -> Path:
    path = tmp_path / "several.yaml"
    path.write_text(text)
    return path


def test_a_job_may_mix_games_with_rewards_and_teachers_of_their_own(tmp_path: Path) -> None:
    job = load_job(several(tmp_path))
    assert [game.reward.weights for game in job.mixture] == [
        RewardWeights(1.0, 0.0, 0.5),
        RewardWeights(1.0, 0.25, 0.5),
    ]
    assert [job.teacher(game) for game in job.mixture] == [{"path_blind": 1.0}, {"solver": 1.0}]
    config = grpo_config(job, "m")
    config.validate()
    assert [game["game"] for game in config.env_config["games"]] == ["shisen_sho", "maze"]
    assert config.weights_of_games == [1.0, 2.0] and config.rewards_of_game(1)["perception"] == 0.25
    save_job(job, tmp_path / "saved.yaml")
    assert load_job(tmp_path / "saved.yaml") == job


def test_one_game_is_a_mixture_of_one(write_job: WriteJob) -> None:
    job = load_job(write_job())
    assert job.mixture == (job.game,) and grpo_config(job, "m").num_games == 1


def test_a_curriculum_reaches_the_algorithm(tmp_path: Path) -> None:
    job = load_job(
        several(
            tmp_path, GAMES.replace("weight: 2", f"weight: 2, curriculum: {CURRICULUM}").replace("[small]", "[paper]")
        )
    )
    config = grpo_config(job, "m")
    config.validate()
    assert list(config.ladders_of_games) == [1]
    assert config.ladders_of_games[1].axes["size"] == ({"rows": 5, "cols": 5}, {"rows": 7, "cols": 7})
    save_job(job, tmp_path / "saved.yaml")
    assert load_job(tmp_path / "saved.yaml") == job


@pytest.mark.parametrize(
    ("games", "message"),
    [
        ("[]", "one of game and games is required, and only one"),
        ("[{id: maze}, {id: maze}]", "games must not hold a game twice at one level, got maze paper"),
        ("[{id: maze, wight: 2}]", "unknown key 'games.0.wight', did you mean 'games.0.weight'?"),
        ("[{id: maze}, {id: maze, level: tny}]", "games.1: unknown level of maze 'tny', did you mean 'tiny'?"),
        ("[{id: maze, weight: 0}]", "games.0.weight must be above 0, got 0"),
        ("[{id: maze, reward: {gme: 1}}]", "unknown key 'games.0.reward.gme', did you mean 'games.0.reward.game'?"),
        ("[{id: maze, teacher: {path_blind: 1}}]", "games.0: unknown teacher 'path_blind'"),
        ("[{id: maze, held_out_levels: [tny]}]", "games.0: unknown level of maze 'tny', did you mean 'tiny'?"),
        (
            "[{id: maze, held_out_levels: [paper]}]",
            "held_out_levels of maze must not hold a level of training, got 'paper'",
        ),
        (
            "[{id: maze, held_out_levels: [tiny]}, {id: maze, level: tiny}]",
            "held_out_levels of maze must not hold a level of training, got 'tiny'",
        ),
        (
            f"[{{id: maze, level: tiny, held_out_levels: [small], curriculum: {CURRICULUM}}}]",
            "held_out_levels of maze must not hold a level of training, got 'small'",
        ),
        (f"[{{id: maze, level: tiny, curriculum: {CURRICULUM}}}, {{id: maze}}]", "with a curriculum once, got maze"),
        ("[{id: maze, curriculum: {axes: {size: [{rows: 4}]}}}]", "games.0: rows must be odd, got 4"),
        ("[{id: maze, curriculum: {axes: {}}}]", "games.0.curriculum.axes must not be empty"),
        (
            "[{id: maze, curriculum: {axes: {a: [{rows: 5}], b: [{rows: 7}]}}}]",
            "must not share knobs, got 'rows' in a and b",
        ),
        ("[{id: maze, curriculum: {axes: {a: [{rows: 5}, {cols: 7}]}}}]", "must set the same knobs, got others in a"),
        (
            "[{id: maze, curriculum: {axes: {a: [{rows: 5}]}, promote_above: 0.2}}]",
            "demote_below must be below promote_above, got 0.3",
        ),
    ],
)
def test_bad_mixtures_are_one_clear_line(tmp_path: Path, games: str, message: str) -> None:
    """The level `small` is 7 x 7 cells of 56 pixels: the second steps of both axes."""
    with pytest.raises(JobError) as error:
        load_job(several(tmp_path), overrides=[f"games={games}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
