"""``kyn voxels``: a split to meshes and pictures, resumed, with what is missing counted or refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_drive import DRIVE, write_drive

from kyn_models.cli import main
from kyn_models.predictor import Predictor
from kyn_models.whole_files import write_whole


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "data")


@pytest.fixture
def call(data: Path, tiny_artifact: Path, tmp_path: Path):
    """``call(split lines, further options)`` runs the command into ``tmp_path / "out"``."""

    def run(lines: list[str], *options: str) -> int:
        split = tmp_path / "split.txt"
        split.write_text("\n".join(lines) + "\n")
        words = ["--data", str(data), "--split", str(split), "--model", str(tiny_artifact), "--resolution", "0.4"]
        return main(["voxels", *words, "--out", str(tmp_path / "out"), *options])

    return run


LINES = [f"{DRIVE} {frame:010d} l" for frame in range(5, 9)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_second_frame_of_a_split(call, tmp_path, capsys):
    assert call(LINES, "--every", "2") == 0
    frames = [f"{DRIVE}_{frame:010d}" for frame in (5, 7)]
    assert names(tmp_path / "out") == {"voxels.json", *(f"{name}{end}" for name in frames for end in (".ply", ".png"))}
    for name in frames:
        assert (tmp_path / "out" / f"{name}.ply").read_bytes().startswith(b"ply\n")
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png")).std() > 5
    assert "2 frames written, 0 were there, 0 missing" in capsys.readouterr().out


def test_a_stopped_run_goes_on(call, tmp_path, capsys, monkeypatch):
    predict, calls = Predictor.predict, []

    def once(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, *args)

    monkeypatch.setattr(Predictor, "predict", once)
    assert call(LINES) == 130
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert len(first) == 1 + 2 * 2 and not any(name.endswith(".part") for name in first)
    assert call(LINES) == 0
    assert len(calls) == 5 and len(names(tmp_path / "out")) == 1 + 4 * 2
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in first} == first
    assert "2 frames written, 2 were there" in capsys.readouterr().out


def test_the_precision_reaches_the_predictor(call, monkeypatch, capsys):
    def refused(artifact, options):
        raise ValueError(f"asked for {options.precision}")

    monkeypatch.setattr("kyn_models.cli.voxels.make_predictor", refused)
    assert call(LINES, "--precision", "float16") == 2
    assert "asked for float16" in capsys.readouterr().err


def test_what_is_missing_is_counted_and_named(call, data, tmp_path, capsys):
    image = data / "data_2d_raw" / DRIVE / "image_00" / "data_rect" / "0000000006.png"
    image.write_bytes(image.read_bytes()[:200])
    lines = [*LINES[:2], f"{DRIVE} 0000000099 l", "2000_01_01_drive_0009_sync 0000000001 l"]
    assert call(lines) == 0
    out = capsys.readouterr().out
    assert "1 frame written, 0 were there, 3 missing" in out
    for words in ("0000000006.png", "split.txt, line 3: names frame 99", "line 4: names frame 1 of 2000_01_01"):
        assert words in out
    assert call(lines) == 0 and "0 frames written, 1 were there, 3 missing" in capsys.readouterr().out


@pytest.mark.parametrize("line", [1, 2])
def test_strict_refuses_what_is_missing(call, data, capsys, line, tmp_path):
    image = data / "data_2d_raw" / DRIVE / "image_00" / "data_rect" / "0000000006.png"
    image.write_bytes(b"" if line == 1 else image.read_bytes())
    lines = LINES[:2] if line == 1 else [LINES[0], f"{DRIVE} 0000000099 l"]
    assert call(lines, "--strict") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("0000000006.png" if line == 1 else "names frame 99") in error
    assert line == 1 or not (tmp_path / "out").exists()


def test_a_split_of_which_nothing_is_there(call, tmp_path, capsys):
    assert call([f"{DRIVE} 0000000099 l", f"{DRIVE} 0000000098 l"]) == 2
    assert "2 of 2 lines" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--every", "0"], "--every: got 0"),
        (["--occupied-above", "1.5"], "--occupied-above: got 1.5"),
        (["--resolution", "0.3"], "expected a multiple"),
        (["--model", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_user_errors(call, capsys, options, words):
    assert call(LINES, *options) == 2
    assert words in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_written_into(call, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert call(LINES) == 2 and "not a folder of `kyn voxels`" in capsys.readouterr().err
    (tmp_path / "out" / "voxels.json").write_text(json.dumps({"model": "another"}))
    assert call(LINES) == 2 and "another model or grid" in capsys.readouterr().err
    assert names(tmp_path / "out") == {"mine.txt", "voxels.json"}


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "a", b"whole")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "a", np.zeros(9).tobytes())
    assert error.value.filename == str(tmp_path / "a") and error.value.errno == errno.ENOSPC
    assert names(tmp_path) == {"a"} and (tmp_path / "a").read_bytes() == b"whole"
