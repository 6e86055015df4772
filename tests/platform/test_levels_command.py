from pathlib import Path

import pytest
from PIL import Image

from vlmgym.cli import main
from vlmgym_envs.registry import level_ids


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_ladder_is_a_table_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sheet.png"
    assert run("levels", "shisen_sho", "--out", path) == 0
    out = capsys.readouterr().out
    perception, reasoning = out.split("Reasoning")
    rows = [line.split() for line in reasoning.splitlines()]
    names = [row[0] for row in rows if row and row[0] in level_ids("shisen_sho")]
    assert names == list(level_ids("shisen_sho"))
    header = next(row for row in rows if row[:1] == ["level"])
    tiny = next(row for row in rows if row[:1] == ["tiny"])
    assert dict(zip(header, tiny, strict=True)).items() >= {"rows": "3", "cols": "4"}.items()
    assert "64 x 48" in perception and "728 x 728" in perception and "tile_px" in perception
    assert out.splitlines()[-1] == f"vlmgym: a board of each level in {path}"
    with Image.open(path) as sheet:
        assert len(sheet.getcolors(maxcolors=2**24)) > 10


def test_without_a_path_the_sheet_is_named_after_the_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("levels", "shisen_sho", "--seed", "1") == 0
    first = (tmp_path / "levels-shisen_sho.png").read_bytes()
    assert "levels-shisen_sho.png" in capsys.readouterr().out
    assert run("levels", "shisen_sho", "--seed", "2") == 0
    assert (tmp_path / "levels-shisen_sho.png").read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shisen_so"], "unknown game 'shisen_so', did you mean 'shisen_sho'?"),
        (["shisen_sho", "--out", "sheet.jpg"], "--out must end in .png, got sheet.jpg"),
        (["shisen_sho", "--out", "no/such/folder.png"], "no/such/folder.png: No such file or directory"),
        (["shisen_sho", "--seed", "-1"], "Input should be greater than or equal to 0"),
        ([], "Missing argument 'GAME'"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("levels", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
