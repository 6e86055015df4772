import json
from pathlib import Path

from vlmgym.metrics_file import MetricsFile, Point, lines_until, read_metrics


def line(stage: str, step: int) -> dict[str, object]:
    return {"stage": stage, "step": step, "time_s": float(step)}


LINES = [line("cold_start", 1), line("cold_start", 2), line("grpo", 1), line("grpo", 2), line("grpo", 2)]


def test_lines_are_flat_and_on_disk_at_once(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log("grpo", 1, {"reward": 0.5, "kl": float("nan"), "legal": True})
    (logged,) = read_metrics(tmp_path / "metrics.jsonl")
    time_s = logged.pop("time_s")
    assert logged == {"stage": "grpo", "step": 1, "reward": 0.5, "kl": None, "legal": 1.0}
    assert 0 <= time_s < 60


def test_a_new_file_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(line("grpo", 7)) + "\n")
    MetricsFile(path).close()
    assert read_metrics(path) == []


def test_lines_until_keeps_every_line_of_the_last_step_done() -> None:
    assert lines_until(LINES, Point("grpo", 1)) == LINES[:3]
    assert lines_until(LINES, Point("grpo", 2)) == LINES
    assert lines_until(LINES, Point("cold_start", 1)) == LINES[:1]


def test_lines_until_drops_a_later_stage_that_will_start_again() -> None:
    assert lines_until(LINES, Point("cold_start", 2)) == LINES[:2]
    assert lines_until(LINES, Point("grpo", 0)) == LINES[:2]


def test_lines_until_keeps_everything_before_a_stage_that_never_logged() -> None:
    assert lines_until(LINES[:2], Point("grpo", 0)) == LINES[:2]


def test_resuming_drops_undone_steps_and_a_line_cut_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in LINES) + '{"stage": "grpo", "st')
    metrics = MetricsFile.resumed(path, Point("grpo", 1))
    metrics.log("grpo", 2, {"reward": 1.0})
    lines = read_metrics(path)
    assert [(each["stage"], each["step"]) for each in lines] == [
        ("cold_start", 1),
        ("cold_start", 2),
        ("grpo", 1),
        ("grpo", 2),
    ]
    assert lines[-1]["reward"] == 1.0
    assert lines[-1]["time_s"] >= lines[-2]["time_s"]
