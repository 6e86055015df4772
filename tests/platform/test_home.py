from pathlib import Path

import pytest

from vlmgym.home import at_home


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VLMGYM_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)


def test_results_of_a_checkout_stay_in_it() -> None:
    assert at_home("runs") == "runs"


def test_results_of_a_folder_that_ray_unpacked_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = tmp_path / "_ray_pkg_0123"
    unpacked.mkdir()
    monkeypatch.chdir(unpacked)
    assert at_home("runs") == str(tmp_path / "me" / "vlmgym" / "runs")


def test_a_named_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMGYM_HOME", "/mnt/results")
    assert at_home("runs") == "/mnt/results/runs"


@pytest.mark.parametrize("path", ["/data/runs", "s3://bucket/runs"])
def test_what_is_not_relative_is_left_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMGYM_HOME", "/mnt/results")
    assert at_home(path) == path
