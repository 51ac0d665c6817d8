"""kyn prepare kitti-raw: what is made, what a reader makes of it, going on after an end, what is wrong or missing."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_raw import DRIVE, STEP_M, image, write_raw

from kyn_models.cli import main
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.kitti_raw_split import KittiRawSplit


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw", range(4))


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.txt"
    path.write_text(f"{DRIVE} 0000000001 l\n{DRIVE} 3 r\n2011_09_28/2011_09_28_drive_0001_sync 5 l\n")
    return path


def prepare(data: Path, out: Path, *words: object) -> int:
    common = ["prepare", "kitti-raw", "--data", data, "--out", out, "--size", "64x20", "--workers", "1"]
    return main([str(word) for word in (*common, *words)])


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root / DRIVE)) for path in (root / DRIVE).rglob("*.*") if "oxts" not in path.parts}


def test_a_reader_needs_the_prepared_folder_alone(data: Path, split: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert prepare(data, out, "--splits", split, "--depth") == 0
    said = capsys.readouterr().out
    assert "not among the drives here, for 1 lines" in said and "8 files made" in said
    frames = {f"image_{camera}/data/{frame:010d}.png" for camera in ("02", "03") for frame in (1, 2, 3)}
    assert files(out) == frames | {"lidar_02/0000000001.npz", "lidar_03/0000000003.npz"}
    official = KittiRawSplit(data, split, views=(("same", 1), ("other", 0)))
    prepared = KittiRawSplit(out, split, views=(("same", 1), ("other", 0)))
    assert len(prepared) == len(official) == 2
    for index in range(2):
        source, small = official[index], prepared[index]
        assert small.name == source.name and small.depth_m is None
        np.testing.assert_array_equal(prepared.published_depth(index), official.published_depth(index))
        for whole, resized in zip(
            (source.observation.key, *source.views), (small.observation.key, *small.views), strict=True
        ):
            np.testing.assert_array_equal(resized.image, cv2.resize(whole.image, (64, 20)))
            np.testing.assert_allclose(resized.intrinsics.normalised(), whole.intrinsics.normalised())
            np.testing.assert_allclose(resized.world_from_camera, whole.world_from_camera)
    assert prepared[0].views[0].world_from_camera[2, 3] == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(prepared[0].views[0].world_from_camera[:3, 3]) == pytest.approx(2 * STEP_M, abs=1e-3)


def test_the_same_command_goes_on_and_another_size_is_refused(data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert prepare(data, out, "--format", "jpg") == 0
    assert "8 files made" in capsys.readouterr().out
    kept, lost = (KittiRawFolder(out).image_path(DRIVE, frame, "02") for frame in (0, 1))
    assert kept.suffix == ".jpg" and cv2.imread(str(kept)).shape == (20, 64, 3)
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert prepare(data, out, "--format", "jpg") == 0
    assert "1 files made" in capsys.readouterr().out and kept.stat().st_mtime_ns == before and lost.is_file()
    assert prepare(data, out) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert prepare(data, out, "--depth", "--no-images") == 0
    assert "4 files made" in capsys.readouterr().out and not list(out.rglob("*.part"))


def test_unreadable_files_are_named_and_counted_or_an_error(data: Path, tmp_path: Path, capsys) -> None:
    folder = KittiRawFolder(data)
    folder.image_path(DRIVE, 2, "03").write_bytes(b"no image")
    cv2.imwrite(str(folder.image_path(DRIVE, 1, "02")), image(1, "02")[:20])
    folder.scan_path(DRIVE, 0).write_bytes(b"123")
    folder.scan_path(DRIVE, 3).unlink()
    out = tmp_path / "out"
    assert prepare(data, out, "--depth") == 0
    said = capsys.readouterr()
    assert "lacks 1 scans" in said.out and "3 could not be made" in said.out
    assert said.err.count("(left out)") == 3 and "128x20 pixels, expected 128x40" in said.err
    assert len(files(out)) == 6 + 2
    assert prepare(data, tmp_path / "strict", "--strict") == 2


def test_a_folder_that_cannot_be_written_is_named(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "out"
    assert prepare(data, out) == 2
    said = capsys.readouterr().err
    assert "no space left on device" in said and not list(out.rglob("*.part")) and not list(out.rglob("*.png"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--drives", "other"), "got no drive other"),
        (("--size", "20"), "expected WIDTHxHEIGHT"),
        (("--size", "20x64"), "did you mean 64x20?"),
        (("--size", "64x1"), "got 64x1, expected a width and a height of at least 2"),
        (("--no-images",), "neither images nor depth"),
        (("--workers", "0"), "at least 1"),
        (("--out", "{data}"), "own folder"),
        (("--data", "{data}/2011_09_26"), "got no drive at all"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data: Path, tmp_path: Path, capsys, words, sentence: str) -> None:
    assert prepare(data, tmp_path / "out", *(word.format(data=data) for word in words)) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_processes_make_the_same_files(data: Path, tmp_path: Path) -> None:
    assert prepare(data, tmp_path / "one") == 0
    assert prepare(data, tmp_path / "two", "--workers", "2") == 0
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert files(tmp_path / "one") == files(tmp_path / "two")
