"""What the page holds, read back from its HTML without a browser."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from vlmgym.cli import main
from vlmgym.errors import BadInput
from vlmgym.tracking.group_record import read_groups
from vlmgym.viewer.curve_panels import curve_sections
from vlmgym.viewer.page import OUTCOMES, build_page
from vlmgym.viewer.server import HOST, PageServer
from vlmgym.viewer.source import read_source
from vlmgym_policies.insight import ERRORS


def data(page: str, name: str) -> Any:
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def run(make_run) -> Path:
    return make_run()


def test_the_index_tells_what_the_groups_hold(run: Path) -> None:
    page = build_page(read_source(run))
    index = data(page, "index")
    assert [(each["stage"], each["step"], len(each["groups"])) for each in index["iterations"]] == [
        ("grpo", 2, 3),
        ("grpo", 4, 4),
    ]
    assert [(layout["game"], layout["level"]) for layout in index["layouts"]] == [
        ("shisen_sho", "tiny"),
        ("maze", "tiny"),
    ]
    groups = list(read_groups(run / "rollouts" / "grpo-0002"))
    bits = {name: 1 << number for number, name in enumerate(OUTCOMES)}
    for group, (id, _, rewards, errors, outcomes, num_turns) in zip(
        groups, index["iterations"][0]["groups"], strict=True
    ):
        assert (id, rewards, num_turns) == (group.group_id, [branch.reward for branch in group.branches], 1)
        for branch, branch_errors, branch_outcomes in zip(group.branches, errors, outcomes, strict=True):
            (turn,) = branch.turns
            assert bool(branch_outcomes & bits["refused"]) == (turn.refused is not None)
            assert bool(branch_outcomes & bits["exact"]) == (not turn.errors) == (branch_errors == 0)
            assert {name for bit, name in enumerate(ERRORS) if branch_errors >> bit & 1} == {
                error.error for error in turn.errors
            }


def test_cells_and_responses_are_those_of_the_record(run: Path) -> None:
    page = build_page(read_source(run))
    words = data(page, "index")["layouts"][0]["words"]
    (record, *_) = read_groups(run / "rollouts" / "grpo-0002")
    shown = data(page, "groups-0")[0]
    cells = [[words[number] for number in row] for row in shown["boards"][0]["cells"]]
    assert "\n".join("|".join(f" {cell} " for cell in row) for row in cells) == record.boards[0].text
    assert [branch["turns"][0]["response"] for branch in shown["branches"]] == [
        branch.turns[0].response for branch in record.branches
    ]


def test_nothing_in_the_data_can_end_its_element_or_reach_a_network(run: Path) -> None:
    page = build_page(read_source(run))
    assert page.count("<script") == page.count("</script>") == 1 + 1 + 2
    assert "<script>alert(1)" not in page
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page) == []


def test_a_run_without_groups_and_one_without_metrics_have_a_page(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: x\n")
    index = data(build_page(read_source(tmp_path)), "index")
    assert index["iterations"] == [] and index["metrics"] == {} and index["sections"] == []


def test_curves_stand_together_as_on_the_dashboards() -> None:
    points = [[1], [0.5]]
    recorded = {
        "grpo": {
            "reward": points,
            "evaluation/sampled/legal_move_rate": points,
            "evaluation/greedy/legal_move_rate": points,
            "perception_board": points,
            "evaluation/greedy/perception_board": points,
        }
    }
    panels = {panel["title"]: panel for section in curve_sections(recorded) for panel in section["panels"]}
    assert panels["Reward"]["curves"] == [("reward", "")] and not panels["Reward"]["is_share"]
    held_out = panels["Legal moves, held out"]
    assert [label for _, label in held_out["curves"]] == ["sampled", "greedy"] and held_out["is_share"]
    assert [label for _, label in panels["Whole boards perceived right"]["curves"]] == ["training", "greedy"]
    assert "KL to the start model" not in panels


def test_the_command_writes_the_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages" / "run.html"
    with pytest.raises(SystemExit) as ended:
        main(["view", str(run), "--out", str(out)])
    assert ended.value.code == 0
    assert data(out.read_text(encoding="utf-8"), "index")["title"] == "demo"
    assert capsys.readouterr().out.startswith("vlmgym: 7 groups, 26 responses, ")


def test_what_is_neither_a_run_nor_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither a run nor a finished evaluation"):
        read_source(tmp_path)


def test_a_served_page_is_made_anew_for_every_visit() -> None:
    visits: list[int] = []

    def make_page() -> str:
        visits.append(0)
        return f"<p>{len(visits)}"

    with PageServer(make_page, port=0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert server.url.startswith(f"http://{HOST}:")
        for number in (1, 2):
            with urllib.request.urlopen(server.url) as answer:
                assert answer.read().decode() == f"<p>{number}"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{server.url}job.yaml")
        server.shutdown()
    assert len(visits) == 2
