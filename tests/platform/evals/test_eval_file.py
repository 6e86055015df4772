from pathlib import Path

import pytest

from vlmgym.cli import main

FILE = "evaluate: {game: shisen_sho, level: tiny, policy: solver, out: results, runs: 3, set: {rows: 4}}\n"


def planned(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--dry-run"])
    out, err = capsys.readouterr()
    return ended.value.code, out + err


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval.yaml").write_text(FILE)
    return tmp_path / "eval.yaml"


def test_a_file_gives_the_options(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = planned(capsys, file)
    assert code == 0
    assert "shisen_sho, level tiny:" in text and "rows 4, cols 4" in text
    assert "teacher solver" in text and "3 runs of at most 100" in text
    assert planned(capsys, "eval", file) == (code, text)


def test_the_command_line_comes_last(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = planned(capsys, file, "--runs", "5", "--set", "tile_px=32")
    assert code == 0 and "5 runs of" in text and "tile_px 32" in text and "rows 3, cols 4" in text


def test_without_a_file_the_options_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, "eval", "--level", "tiny") == (2, "vlmgym: Missing option '--policy'.\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("runs", "rns"), "evaluate: unknown option 'rns', did you mean 'runs'?"),
        (FILE.replace("3", "many"), "Invalid value for '--runs': "),
        (FILE.replace("{rows: 4}", "rows=4"), "evaluate.set must map knobs to values, got 'rows=4'"),
        (FILE + "name: demo\n", "holds evaluate, with the options of `vlmgym eval`, alone"),
        ("evaluate: [solver]\n", "holds evaluate, with the options of `vlmgym eval`, alone"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(
    file: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    code, said = planned(capsys, file)
    assert code == 2 and message in said and said.count("\n") == 1


def test_results_lie_where_they_outlive_the_folder(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMGYM_HOME", str(tmp_path / "lasting"))
    assert f"results      {tmp_path / 'lasting' / 'results'}" in planned(capsys, file)[1]
