"""``kyn eval occupancy``: protocols, stored masks, object maps, frames that cannot be scored, several processes."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models import cli
from kyn_models.baselines import Prior
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import grid_shape
from kyn_models.data.occupancy_files import OBJECTS, VISIBLE, frame_name
from kyn_models.evaluate import PredictorAnswers
from kyn_models.types import Intrinsics

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def drive(tmp_path: Path) -> Kitti360:
    return Kitti360(tiny.write_drive(tmp_path / "kitti360", frames=range(5, 13)))


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    occupancy = np.zeros(grid_shape(), np.float32)
    occupancy[:200] = 1.0
    camera = Intrinsics(16, 16, 15.5, 5.5, 32, 12)
    Prior(np.full((12, 32), 10.0, np.float32), occupancy, camera, 7).save(tmp_path / "prior.npz")
    return tmp_path / "prior.npz"


def arguments(drive: Kitti360, prior: Path, *more: str) -> list[str]:
    return ["eval", "occupancy", "--data", str(drive.root), "--model", str(prior), *more]


def tables(text: str) -> list[str]:
    """The rows of numbers."""
    return [line for line in text.splitlines() if line.startswith(("prior", "all "))]


def test_masks_of_gt_occupancy_give_the_numbers_of_computing(
    drive: Kitti360, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, scores = tmp_path / "masks", tmp_path / "scores.csv"
    common = ["--scans", "3", "--data", str(drive.root)]
    assert cli.main(["gt-occupancy", *common, "--out", str(masks), "--workers", "1"]) == 0
    capsys.readouterr()
    assert cli.main(arguments(drive, prior, "--scans", "3", "--csv", str(scores))) == 0
    computed, computed_csv = capsys.readouterr().out, scores.read_text()
    last = ["--stop", "9", "--truth", str(masks)]  # further frames have masks from fewer frames that follow
    assert cli.main(arguments(drive, prior, *last, "--csv", str(scores))) == 0
    stored = capsys.readouterr().out
    assert tables(stored) == tables(computed) and len(tables(stored)) == 6 and scores.read_text() == computed_csv
    assert "truth from 3 scans" in computed and f"truth of {masks} from 3 scans" in stored
    assert "z 4..50 m" in stored and "z 4..20 m" in stored


def test_a_damaged_image_is_left_out_counted_and_named(
    drive: Kitti360, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = drive.image_path(6)
    image.write_bytes(image.read_bytes()[:100])
    split = tmp_path / "split.txt"
    split.write_text("".join(f"{drive.drive} {frame} l\n" for frame in (5, 6, 7)))
    for more in (("--stop", "7"), ("--split", str(split))):
        assert cli.main(arguments(drive, prior, "--scans", "3", *more)) == 0
        out = capsys.readouterr().out
        assert "occupancy, 2 frames" in out
        assert re.search(rf"1 frame left out, .*{image.name}.*: {drive.drive} 6\n", out)
        assert cli.main(arguments(drive, prior, "--scans", "3", *more, "--strict")) == 2
        assert image.name in capsys.readouterr().err
    assert cli.main(arguments(drive, prior, "--scans", "3", "--start", "6", "--stop", "6")) == 2
    error = capsys.readouterr().err
    assert "none of the 1 frames could be scored" in error and error.count("\n") == 1


def test_protocols_have_their_own_scans_and_ranges(
    drive: Kitti360, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(drive, prior, "--protocol", "kyn")) == 2
    assert "followed by 300 posed frames" in capsys.readouterr().err
    assert cli.main(arguments(drive, prior, "--protocol", "bts")) == 2
    assert "followed by 20 posed frames" in capsys.readouterr().err
    assert cli.main(arguments(drive, prior, "--protocol", "bts", "--scans", "3")) == 0
    out = capsys.readouterr().out
    assert "z 4..20 m" in out and "z 4..50 m" not in out and "(cut)" not in out.splitlines()[2]
    free = next(line for line in tables(out) if line.startswith("all free"))
    assert free.split()[2:] == ["1.0000", "nan", "nan", "0"]


def test_objects_and_a_prior_have_their_place_in_the_table(
    drive: Kitti360, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, scores = tmp_path / "Object_Label", tmp_path / "scores.csv"
    labels.mkdir()
    objects = np.zeros(grid_shape(), np.uint8)
    objects[100:120, 30:40] = 3
    objects[150:160] = 255
    for frame in (5, 6):
        cv2.imwrite(str(labels / (frame_name(drive.drive, frame) + OBJECTS)), objects)
    more = ["--scans", "3", "--objects", str(labels), "--prior", str(prior), "--csv", str(scores), "--stop", "7"]
    assert cli.main(arguments(drive, prior, *more)) == 0
    out = capsys.readouterr().out
    assert re.search(r"o_acc \(objects\).* NaN +NaN \(objects\)\n", out)
    assert re.search(r"all free .* 0 +1\n", out), "frame 7 has no object"
    assert "1 without a map" in out and "prior of 7 frames, no image" in out
    with scores.open() as file:
        rows = {(row["frame"][-1], row["answer"], row["far_m"]): row for row in csv.DictReader(file)}
    assert rows["5", "prior of 7 frames", "50.0"] == {
        **rows["5", "prior of 7 frames, no image", "50.0"],
        "answer": "prior of 7 frames",
    }
    near = rows["5", "all free", "50.0"]["o_acc_near_objects"]
    assert near != "nan" and rows["7", "all free", "50.0"]["o_acc_near_objects"] == "nan"
    assert rows["5", "all free", "20.0"]["o_acc_near_objects"] == "nan"  # the object is 38 m away
    (labels / (frame_name(drive.drive, 5) + OBJECTS)).write_bytes(b"no picture")
    assert cli.main(arguments(drive, prior, *more)) == 2
    assert "a file that is no image" in capsys.readouterr().err


def test_split_lines_that_cannot_be_scored_are_counted_or_an_error(
    drive: Kitti360, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.txt"
    split.write_text(
        "".join(f"{tiny.DRIVE} {frame:010d} l\n" for frame in (5, 7, 10, 77)) + "elsewhere 1 l\nhalf 1 l\n"
    )
    (drive.root / "data_2d_raw" / "half").mkdir()
    drive.scan_path(8).unlink()
    drive.scan_path(12).write_bytes(b"cut")
    more = ["--scans", "3", "--split", str(split)]
    assert cli.main(arguments(drive, prior, *more)) == 0
    out = capsys.readouterr().out
    assert "occupancy, 1 frame," in out
    assert f"1 frame left out, no pose: {tiny.DRIVE} 77" in out
    assert f"{drive.scan_path(8)} is missing: {tiny.DRIVE} 7" in out
    assert f"{drive.scan_path(12)}: got 3 bytes" in out and out.rstrip().endswith(f"{tiny.DRIVE} 10")
    assert "there is no drive elsewhere" in out
    assert "half" in out and "vehicle poses" in out
    assert cli.main(arguments(drive, prior, *more, "--strict")) == 2
    error = capsys.readouterr().err
    assert "split.txt, line 2: frame 7" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--truth", "nowhere"], "--truth: there is no folder nowhere"),
        (["--truth", ".", "--scans", "3"], "leave one of the two out"),
        (["--truth", ".", "--protocol", "bts"], "which the bts protocol does not use"),
        (["--truth", "."], "got no frame that has masks"),
        (["--scans", "0"], "--scans: got 0, expected at least 1"),
        (["--split", "split.txt", "--camera", "01"], "--camera: got 01, which --split"),
    ],
)
def test_errors_are_one_sentence(
    drive: Kitti360, prior: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str],
    sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(drive.root)
    assert cli.main(arguments(drive, prior, *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_damaged_mask_is_named(
    drive: Kitti360, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    common = ["--scans", "3", "--data", str(drive.root)]
    assert cli.main(["gt-occupancy", *common, "--out", str(masks), "--workers", "1"]) == 0
    damaged = masks / (frame_name(drive.drive, 6) + VISIBLE)
    for content, got in ((b"no mask", "damaged or no .npy array"), (damaged.read_bytes()[:-9], "damaged")):
        damaged.write_bytes(content)
        capsys.readouterr()
        assert cli.main(arguments(drive, prior, "--truth", str(masks))) == 0
        out = capsys.readouterr().out
        assert f"1 frame left out, {damaged}: got a file that is {got}" in out and "occupancy, 5 frames" in out
    np.save(damaged, np.zeros((160, 80), bool))
    assert cli.main(arguments(drive, prior, "--truth", str(masks), "--strict")) == 2
    assert "got (160, 80), expected (460, 80)" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "expected"), [("kyn", 100_000), ("bts", None)])
def test_points_look_at_each_other_as_in_the_authors_renderer(family: str, expected: int | None) -> None:
    asked: list[Any] = []

    class Recorder:
        artifact = SimpleNamespace(manifest=SimpleNamespace(family=family))

        def density(self, observation: object, points: np.ndarray, points_per_call: int | None) -> np.ndarray:
            asked.append(points_per_call)
            return np.zeros(len(points), np.float32)

    recorder: Any = Recorder()
    sample: Any = SimpleNamespace(observation=None)
    PredictorAnswers(recorder).density(sample, np.zeros((3, 3), np.float32))
    assert asked == [expected]


def test_ranks_share_the_frames_and_print_one_table(drive: Kitti360, prior: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torchrun is torch's")
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    assert cli.main(arguments(drive, prior, "--scans", "3", "--csv", str(alone))) == 0
    split = tmp_path / "split.txt"
    second = tiny.write_drive(drive.root, frames=range(5, 13), drive="2000_01_01_drive_0002_sync")
    lines = [f"{name} {frame} l\n" for name in (drive.drive, "2000_01_01_drive_0002_sync") for frame in range(5, 10)]
    split.write_text("".join(lines))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kyn_ros.cli"]
    more = ["--scans", "3", "--csv", str(shared), "--split", str(split)]
    done = subprocess.run(
        [*command, *arguments(drive, prior, *more)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and second.is_dir(), done.stderr
    assert done.stdout.count("occupancy, 10 frames") == 2 and done.stdout.count("scores of each frame") == 1
    both = shared.read_text().replace("drive_0002", "drive_0001").splitlines()
    assert sorted(both[1:]) == sorted(2 * alone.read_text().splitlines()[1:])
