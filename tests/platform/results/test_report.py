"""A made-up run: two games, a cold start of two points, and GRPO that helps in one of them."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vlmgym.cli import main
from vlmgym.evals.report import Rate, mean_interval, rate, write_summary
from vlmgym.job import load_job, save_job
from vlmgym.results.difference import difference
from vlmgym.results.measured_run import read_run
from vlmgym.results.tables import tables

JOB = """\
name: {name}
seed: 3
output_dir: {folder}
games:
  - {{id: shisen_sho, level: tiny}}
  - {{id: maze, level: tiny, reward: {{rule: legal}}}}
model: {{tiny: true}}
cold_start: {{updates: 200, lr: 1e-3, teacher: {{solver: 1}}}}
grpo: {{iterations: 2, groups: 8, group_size: 4}}
evaluation: {{num_states: 100}}
"""
PLACES = ("shisen_sho/tiny", "maze/tiny")


def rates(paid: int, legal: int) -> dict[str, Rate]:
    """Of 100 boards."""
    return {
        "progress_rate": rate(paid, 100),
        "legal_move_rate": rate(legal, 100),
        "perception_board": rate(90, 100),
        "perception_cells": mean_interval([1.0, 0.5], (0.0, 1.0)),
    }


def make_run(folder: Path, name: str, after: int) -> Path:
    """after: boards of Shisen-Sho that are solved after GRPO."""
    file = folder / f"{name}.yaml"
    file.write_text(JOB.format(name=name, folder=folder / "runs"))
    job = load_job(file)
    job.run_dir.mkdir(parents=True)
    save_job(job, job.run_dir / "job.yaml")
    policies = {
        "teacher": {"sampled": rates(50, 51)},
        "cold_start_best": {"sampled": rates(40, 41), "greedy": rates(60, 61)},
        "cold_start": {"sampled": rates(38, 39), "greedy": rates(58, 59)},
        "grpo": {"sampled": rates(after, 43), "greedy": rates(after, 61)},
    }
    write_summary(job.run_dir / "summary.json", dict.fromkeys(PLACES, policies))
    names = [
        f"{of}game/{place}/{metric}"
        for of in ("", "evaluation/sampled/")
        for place in PLACES
        for metric in ("progress_rate", "legal_move_rate", "perception_board", "perception_error/ghost")
    ]
    lines = [
        {"stage": stage, "step": step, "time_s": 60.0 * step, **dict.fromkeys(names, 0.5)}
        for stage in ("cold_start", "grpo")
        for step in (1, 2)
    ]
    (job.run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return job.run_dir


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path, "g1", after=80)


def test_a_difference_has_the_interval_of_newcombes_example() -> None:
    """56 of 70 against 48 of 80: 0.0524 to 0.3339 by his method 10, table II."""
    found = difference(rate(56, 70), rate(48, 80))
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.is_significant and str(found) == "+20.0 [+5.2, +33.4]"
    assert not difference(rate(50, 100), rate(49, 100)).is_significant
    assert difference(rate(10, 100), rate(90, 100)).is_significant


def test_a_run_is_read_with_what_its_rewards_pay_for(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert (run.name, run.minutes) == ("g1-seed3", 2.0)
    assert [(game.place, game.paid_rate) for game in run.games] == [
        ("shisen_sho/tiny", "progress_rate"),
        ("maze/tiny", "legal_move_rate"),
    ]
    assert run.games[1].rate("grpo", "sampled") == rate(43, 100)
    assert run.games[0].rate("grpo", "sampled", "regret") is None


def test_the_tables_say_what_grpo_changed_and_how_sure_that_is(run_dir: Path) -> None:
    found = {table.title: table for table in tables([read_run(run_dir)])}
    gains = {
        place: next(table.rows for title, table in found.items() if title.startswith(f"{place}: what"))
        for place in PLACES
    }
    assert gains["shisen_sho/tiny"] == [
        ["g1-seed3", "sampled", "40.0 [30.9, 49.8]", "80.0 [71.1, 86.7]", "+40.0 [+26.8, +51.2]", "yes"],
        ["g1-seed3", "greedy", "60.0 [50.2, 69.1]", "80.0 [71.1, 86.7]", "+20.0 [+7.3, +31.9]", "yes"],
    ]
    assert [row[-1] for row in gains["maze/tiny"]] == ["no", "no"]
    assert not any("one run and another" in title for title in found)
    (rows,) = (table.rows for title, table in found.items() if title.startswith("shisen_sho/tiny: moves"))
    assert [row[0] for row in rows][:3] == ["teacher", "cold start, best, sampled", "cold start, best, greedy"]


def test_runs_of_two_jobs_and_one_seed_are_compared(run_dir: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path, "g0", after=45)
    (table,) = (
        table
        for table in tables([read_run(other), read_run(run_dir)])
        if table.title.startswith("shisen_sho/tiny") and "one run and another" in table.title
    )
    assert [row[:2] for row in table.rows] == [["g1-seed3 - g0-seed3", mode] for mode in ("sampled", "greedy")]
    assert table.rows[0][2].startswith("+35.0 [") and table.rows[0][3] == "yes"


def test_the_command_writes_a_page_with_its_figures(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run_dir), "--out", str(out), "--title", "A demo"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "+40.0 [+26.8, +51.2]" in printed and printed.endswith(f"vlmgym: {out / 'README.md'}\n")
    page = (out / "README.md").read_text()
    assert page.startswith("# A demo\n") and "| g1-seed3 | sampled | 40.0 [30.9, 49.8] |" in page
    figures = re.findall(r"\]\((.*\.svg)\)", page)
    assert figures == ["g1-seed3-shisen_sho-tiny.svg", "g1-seed3-maze-tiny.svg"]
    drawn = ["".join(ElementTree.parse(out / name).getroot().itertext()) for name in figures]
    assert "Moves that the game rewards" in drawn[0] and "Legal moves" in drawn[1]
    assert all("boards, held out, sampled" in text and "Cells perceived wrong" in text for text in drawn)
    before = [(out / name).read_bytes() for name in figures]
    with pytest.raises(SystemExit):
        main(["report", str(run_dir), "--out", str(out)])
    assert [(out / name).read_bytes() for name in figures] == before


def test_a_run_that_is_not_finished_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "summary.json").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run_dir), "--out", str(run_dir / "out")])
    assert ended.value.code == 2
    assert "holds no finished run: it has no summary.json" in capsys.readouterr().err
