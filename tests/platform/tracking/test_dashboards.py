"""Dashboards name metrics that exist, for wandb and for Grafana."""

import json
import re
import sys
from pathlib import Path

import pytest

from vlmgym.cli import main
from vlmgym.tracking.grafana import grafana_dashboard
from vlmgym.tracking.metrics import FIELDS, METRICS
from vlmgym.tracking.panels import HELD_OUT, SECTIONS, Panel
from vlmgym.tracking.prometheus import RAY_PREFIX, gauge_name
from vlmgym.tracking.workspace import metric_regex

PANELS = [panel for panels in SECTIONS.values() for panel in panels]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_shows_declared_metrics_of_one_unit(panel: Panel) -> None:
    declared = {metric.name: metric for metric in METRICS[panel.stage]}
    assert len({declared[name].unit for name in panel.metrics}) == 1


def test_panels_have_titles_of_their_own() -> None:
    assert len({panel.title for panel in PANELS}) == len(PANELS)


def test_the_pattern_of_a_panel_matches_its_names_and_no_others() -> None:
    pattern = re.compile(metric_regex(Panel("", (HELD_OUT + "regret", "loss"))))
    assert pattern.match("grpo/evaluation/greedy/game/swap/tiny/regret") and pattern.match("grpo/loss")
    assert not pattern.match("grpo/game/swap/tiny/regret") and not pattern.match("grpo/policy_loss")


def test_grafana_asks_for_gauges_that_exist() -> None:
    dashboard = json.loads(grafana_dashboard())
    known = {RAY_PREFIX + gauge_name(metric) for stage in METRICS.values() for metric in stage}
    panels = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in PANELS]
    for panel in panels:
        for target in panel["targets"]:
            found = re.fullmatch(r'(\w+){run=~"\$run",stage="(\w+)"}', target["expr"])
            assert found is not None and found[1] in known and found[2] in METRICS
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= {"run", *FIELDS}


def test_grafana_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(grafana_dashboard())["panels"]:
        place = panel["gridPos"]
        area = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not area & cells and place["x"] + place["w"] <= 24
        cells |= area


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_writes_all_of_them_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", "--out", str(tmp_path), "--project", "games", "--entity", "us"])
    assert ended.value.code == 0 and "nothing was saved" in capsys.readouterr().out
    workspace = json.loads((tmp_path / "wandb-workspace.json").read_text())
    titles = [section["name"] for section in workspace["spec"]["section"]["panelBankConfig"]["sections"]]
    assert titles == [*list(SECTIONS)[:3], "Rollouts", *list(SECTIONS)[3:]]
    report = (tmp_path / "wandb-report.json").read_text()
    for panel in PANELS:
        assert json.dumps(panel.title) in report
    assert '"projectName": "games"' in report or '"name": "games"' in report
    assert (tmp_path / "grafana.json").read_text() == grafana_dashboard()


def test_without_the_extra_the_command_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "pip install 'vlmgym[dashboard]'" in capsys.readouterr().err
