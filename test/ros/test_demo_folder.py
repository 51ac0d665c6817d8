"""What the demo refuses before it starts anything, and whose files it replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from kyn_ros import demo_folder
from kyn_ros.cli import main


def refused(capsys: pytest.CaptureFixture[str], out: Path, model: Path) -> str:
    """The one sentence with which a demo into ``out`` is refused."""
    capsys.readouterr()
    assert main(["demo", "--out", str(out), "--model", str(model), "--frames", "2"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said
    return said.err


@pytest.mark.parametrize("own", ["recording/precious.mcap", "summary.json", "photos/holiday.jpg"])
def test_a_folder_with_foreign_files_is_refused_and_stays_as_it_is(tmp_path, model, capsys, own):
    file = tmp_path / "own" / own
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert "did not write" in refused(capsys, tmp_path / "own", model)
    assert file.read_text() == "mine"
    assert [path for path in (tmp_path / "own").rglob("*") if path.is_file()] == [file]


def test_a_file_as_folder_is_refused(tmp_path, model, capsys):
    (tmp_path / "own").write_text("mine")
    assert "is a file, expected a folder" in refused(capsys, tmp_path / "own", model)


def test_a_second_demo_into_the_same_folder_is_refused(tmp_path, model, capsys):
    with demo_folder.hold(tmp_path / "out"):
        assert "another demo writes there" in refused(capsys, tmp_path / "out", model)
    with demo_folder.hold(tmp_path / "out"):  # a mark that nobody holds is no obstacle
        assert "replace" in (tmp_path / "out" / demo_folder.MARK).read_text()


@pytest.mark.parametrize("keep_drive", [True, False])
def test_only_results_are_cleared(tmp_path, keep_drive):
    with demo_folder.hold(tmp_path):
        for name in ("recording/a.mcap", "frames/0.png", "summary.json", "notes.txt", "synthetic_drive/complete"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        gone = demo_folder.clear(tmp_path, keep_drive)
    assert gone == ["recording", "frames", "summary.json"] + ["synthetic_drive"] * (not keep_drive)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {demo_folder.MARK, "notes.txt"} | ({"synthetic_drive"} if keep_drive else set())
