"""What the demo refuses before it starts anything, whose files it replaces, what it says of broken frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from processes import Process
from tiny_drive import DRIVE, write_drive

from kyn_ros import demo_folder, demo_report
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


def test_a_full_disk_is_named_with_its_folder(tmp_path):
    with (
        pytest.raises(OSError, match="No space left on device; make room there, or name another folder") as full,
        demo_folder.hold(tmp_path),
        open("/dev/full", "wb", buffering=0) as recording,
    ):
        recording.write(b"a message")
    assert full.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing, demo_folder.hold(tmp_path):
        (tmp_path / "gone").read_bytes()
    assert missing.value.filename == str(tmp_path / "gone")


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


def test_a_broken_frame_is_counted_in_the_last_line_and_the_old_results_are_gone(tmp_path, model):
    drive, out = write_drive(tmp_path / "drive"), tmp_path / "out"
    image = drive / f"data_2d_raw/{DRIVE}/image_00/data_rect/0000000006.png"
    image.write_bytes(image.read_bytes()[:60])
    with demo_folder.hold(out):
        (out / demo_folder.DRIVE).mkdir()
        (out / "summary.json").touch()
    words = ["--data", str(drive), "--out", str(out), "--model", str(model), "--runtime", "onnxruntime"]
    with Process("kyn_ros.cli", "demo", *words) as demo:
        assert demo.wait(60.0) == 1, demo.text
    assert f"replacing what an earlier demo left in {out}: summary.json, synthetic_drive" in demo.text
    last = demo.text.splitlines()[-1]
    assert last.startswith(f"wrote {out}: recording, frames, demo.mp4, summary.json in ")
    assert last.endswith("; 1 frame broken, named above")
    assert json.loads((out / "summary.json").read_text())["broken_frames"] == [6]
    assert len(list((out / "frames").iterdir())) == 3
    assert "FASTRTPS_DEFAULT_PROFILES_FILE value" not in demo.text


def test_frames_that_did_not_arrive_whole_are_not_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_report, "_by_stamp", lambda bag: {"occupancy_grid": {1: b"", 2: b""}, "image": {1: b""}})
    demo_report.draw(tmp_path, tmp_path, None, None, {}, view=False)  # type: ignore[arg-type]
    assert "2 of 2 answered frames are not drawn" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
