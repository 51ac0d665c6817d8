"""Evaluation: a perfect and a broken model, sampling, baselines, the command."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models import cli, evaluate, evaluate_occupancy
from kyn_models.baselines import BOX_STREETS, BoxStreet, Prior, best_answer, box_street_depth
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.data.kitti_raw import KittiRaw
from kyn_models.data.lidar_occupancy import grid_shape
from kyn_models.metrics import depth_scores
from kyn_models.types import Float32Array, Intrinsics, Sample


@pytest.fixture
def drive(tmp_path: Path) -> Kitti360:
    return Kitti360(tiny.write_drive(tmp_path / "kitti360", frames=range(5, 13)))


class Oracle:
    """Knows truth: the scan's depth."""

    def __init__(self, drive: Kitti360) -> None:
        self.drive = drive

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        return self.drive.lidar_depth(int(sample.name[-10:])), sample.observation.key.intrinsics


def test_perfect_answer_has_no_error(drive: Kitti360) -> None:
    samples = [evaluate.kitti360_depth_sample(drive, frame) for frame in (5, 6)]
    mean, nothing = evaluate.mean_depth([evaluate.score_depth(Oracle(drive), sample) for sample in samples])
    assert mean.abs_rel == 0.0 and mean.capped == 0 and nothing == 0 and mean.pixels > 100


def test_depth_is_sampled_by_rays_and_never_mixed() -> None:
    wanted = Intrinsics(40, 40, 9.5, 4.5, 20, 10)
    small = wanted.resized(10, 5)
    depth = np.arange(50, dtype=np.float32).reshape(5, 10)
    depth[2, 3] = np.inf
    sampled, inside = evaluate.sample_depth(depth, small, wanted)
    assert inside.all() and sampled.shape == (10, 20) and set(np.unique(sampled)) <= set(np.unique(depth))
    assert np.isinf(sampled[5, 7]) and sampled[0, 0] == 0 and sampled[9, 19] == 49
    narrow = replace(wanted, width=10, cx=4.5)
    sampled, inside = evaluate.sample_depth(np.ones((10, 10), np.float32), narrow, wanted)
    assert not inside[:, :4].any() and inside[:, 6:14].all()
    assert np.isnan(sampled[:, :4]).all() and (sampled[:, 6:14] == 1).all()


def test_pixels_outside_the_answers_image_are_left_out_and_counted(drive: Kitti360) -> None:
    class Narrow(Oracle):
        def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
            depth, k = super().depth(sample)
            return depth[:, 16:48], replace(k, width=32, cx=k.cx - 16)

    truth = evaluate.kitti360_depth_sample(drive, 5)
    row = evaluate.score_depth(Narrow(drive), truth, others=[BoxStreet(5.0)])
    assert truth.depth_m is not None
    left_out = np.isfinite(truth.depth_m)
    left_out[:, 16:48] = False
    assert row.outside == np.count_nonzero(left_out) > 0
    assert row.scores.abs_rel == 0 and row.scores.capped == 0
    # Other answers are scored on the same pixels.
    counted = truth.depth_m[:, 16:48]
    street = BoxStreet(5.0).depth(truth)[0][:, 16:48]
    assert row.others == (depth_scores(street, counted),) and row.others[0].pixels == row.scores.pixels


def test_box_street_is_scored_on_the_pixels_of_the_model(drive: Kitti360, capsys: pytest.CaptureFixture[str]) -> None:
    k = drive.intrinsics()
    narrow = replace(k, width=32, cx=k.cx - 16)
    prior = Prior(np.full((k.height, 32), 10.0, np.float32), np.zeros(grid_shape(), np.float32), narrow, 1)
    prior.save(drive.root / "narrow.npz")
    arguments = ["eval", "depth", "--data", str(drive.root), "--stop", "6", "--model", str(drive.root / "narrow.npz")]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out.splitlines()
    model, box = (line.split()[-4:] for line in table[2:4])
    assert model[0] == box[0] and model[2] == box[2] and int(model[0]) > 0 and int(model[2]) > 0


def test_depth_without_truth_is_refused(drive: Kitti360) -> None:
    with pytest.raises(ValueError, match="got no depth_m"):
        evaluate.score_depth(Oracle(drive), drive[0])


def test_box_street_has_the_depth_of_planes(drive: Kitti360) -> None:
    camera = Intrinsics(32, 32, 32, 12, 64, 24)
    depth = box_street_depth(camera, drive.base_from_camera(), 5.0)
    assert depth[20, 32] == pytest.approx(tiny.CAMERA_HEIGHT_M * 32 / 8, rel=1e-5)  # road, straight below
    assert depth[12, 60] == pytest.approx(5.0 * 32 / 28, rel=1e-5)  # right wall, at the horizon
    assert depth[12, 4] == pytest.approx(5.0 * 32 / 28, rel=1e-5)
    assert np.isinf(depth[12, 32])
    truth = replace(drive[0], depth_m=box_street_depth(drive.intrinsics(), drive.base_from_camera(), 7.5))
    row = evaluate.score_depth(Oracle(drive), truth, others=BOX_STREETS)
    assert BOX_STREETS[best_answer([row.others])] == BoxStreet(7.5)
    with pytest.raises(ValueError, match="no sample with depth truth"):
        best_answer([])


def test_prior_is_median_depth_and_mean_occupancy(tmp_path: Path) -> None:
    camera = Intrinsics(4, 4, 1, 0.5, 3, 2)
    items = []
    for index in range(5):
        depth = np.full((2, 3), 10.0 + 10 * index, np.float32)
        depth[0, 0] = np.inf if index < 3 else 5.0
        depth[0, 1] = np.nan
        occupied = np.zeros(grid_shape(), bool)
        occupied[:100] = index < 3
        items.append((depth, occupied))
    prior = Prior.fit(items, camera)
    assert prior.depth_m[1, 1] == pytest.approx(30.0, rel=0.01)
    assert np.isinf(prior.depth_m[0, 0]) and np.isnan(prior.depth_m[0, 1])
    prior.save(tmp_path / "prior.npz")
    loaded = Prior.load(tmp_path / "prior.npz")
    sample = Kitti360(tiny.write_drive(tmp_path / "kitti360"))[0]
    sigma = loaded.density(sample, evaluate_occupancy.camera_grid()).reshape(grid_shape())
    np.testing.assert_allclose(1 - 2.0 ** (-2 * sigma), prior.occupancy, atol=1e-6)
    assert (sigma[:100] > evaluate_occupancy.OCCUPIED_ABOVE).all() and (sigma[100:] == 0).all()
    answer, at = loaded.depth(sample)
    assert at == camera and loaded.frames == 5
    np.testing.assert_array_equal(answer, prior.depth_m)
    with pytest.raises(ValueError, match="no training frame"):
        Prior.fit([], camera)
    with pytest.raises(ValueError, match="prior: got depth"):
        Prior.fit([(np.zeros((4, 4)), np.zeros(grid_shape(), bool))], camera)


@pytest.mark.parametrize("content", ["text", "cut", "empty", "other arrays", "other shapes", "bare array"])
def test_a_damaged_prior_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = tmp_path / "wrong.npz"
    arrays = {"depth_m": np.ones((2, 2)), "occupancy": np.ones((2, 2)), "camera": np.ones(4), "frames": np.array(1)}
    np.savez(path, **(arrays if content != "other arrays" else {"depth_m": np.ones(3)}))
    whole = path.read_bytes()
    if content == "bare array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif content in ("text", "cut", "empty"):
        path.write_bytes({"text": b"no", "cut": whole[: len(whole) // 2], "empty": b""}[content])
    with pytest.raises(ValueError, match=r"wrong\.npz: got .*kyn prior"):
        Prior.load(path)
    assert cli.main(["eval", "depth", "--data", str(tmp_path), "--model", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pickle" not in error


def test_raw_and_odometry_frames_put_the_road_at_height_zero(shared_data: Path) -> None:
    raw, odometry = KittiRaw(shared_data / "kitti_raw"), KittiOdometry(shared_data / "kitti_odometry")
    assert (len(raw), len(odometry)) == (3, 3)
    for sample in (raw[0], odometry[1]):
        depth, k = sample.depth_m, sample.observation.key.intrinsics
        assert depth is not None
        row, column = np.nonzero(np.isfinite(depth))
        z = depth[row, column]
        points = np.stack([(column - k.cx) / k.fx * z, (row - k.cy) / k.fy * z, z], axis=-1)
        base = points @ sample.observation.base_from_camera[:3, :3].T + sample.observation.base_from_camera[:3, 3]
        lane = (base[:, 0] > 5) & (base[:, 0] < 12) & (np.abs(base[:, 1]) < 2) & (base[:, 2] < 0.6)
        assert abs(np.median(base[lane, 2])) < 0.2
        assert 1.6 < sample.observation.base_from_camera[2, 3] < 1.7


def test_missing_parts_of_raw_and_odometry_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="image_02/data"):
        KittiRaw(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"sequences/<name>/calib\.txt"):
        KittiOdometry(tmp_path)
    (tmp_path / "d" / "d_sync" / "image_02" / "data").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"calib_cam_to_cam\.txt"):
        KittiRaw(tmp_path)


def test_command_prints_a_table_and_writes_csv(
    drive: Kitti360, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = Intrinsics(16, 16, 15.5, 5.5, 32, 12)
    prior, scores = tmp_path / "prior.npz", tmp_path / "scores.csv"
    Prior.fit([(np.full((12, 32), 10.0, np.float32), np.zeros(grid_shape(), bool))], camera).save(prior)
    common = ["--data", str(drive.root), "--model", str(prior), "--csv", str(scores)]
    assert cli.main(["eval", "occupancy", "--scans", "3", *common]) == 0
    out = capsys.readouterr().out
    assert "5 frames" in out and "prior of 1 frame" in out and "all occupied" in out
    lack = "3 frames that have no scan or are not followed by 3 posed frames with scans"
    assert f"left out of {tiny.DRIVE}: {lack}\n" in out
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and [row["far_m"] for row in rows[:2]] == ["50.0", "20.0"]
    assert rows[0]["o_acc"] == rows[2]["o_acc"] != rows[4]["o_acc"]
    assert cli.main(["eval", "depth", "--stop", "7", *common]) == 0
    out = capsys.readouterr().out
    assert "depth, 3 frames" in out and "box street in hindsight" in out and "left out of 2000" not in out
    with scores.open() as file:
        assert [row["frame"][-1] for row in csv.DictReader(file)] == ["5", "6", "7"]


def test_left_out_frames_are_counted_by_reason(drive: Kitti360, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prior = tmp_path / "prior.npz"
    Prior(np.ones((2, 2), np.float32), np.zeros(grid_shape(), np.float32), Intrinsics(1, 1, 0, 0, 2, 2), 1).save(prior)
    poses = drive.root / "data_poses" / drive.drive / "poses.txt"
    poses.write_text("".join(poses.read_text().splitlines(keepends=True)[:-2]))  # frames 11 and 12
    for frame in (6, 7, 9):
        drive.scan_path(frame).unlink()
    assert cli.main(["eval", "depth", "--data", str(drive.root), "--model", str(prior), "--start", "7"]) == 0
    out = capsys.readouterr().out
    assert f"left out of {tiny.DRIVE}: 2 images without a pose, 2 frames that have no scan\n" in out
    assert "depth, 2 frames" in out


@pytest.fixture
def depth_arguments(drive: Kitti360, tmp_path: Path) -> list[str]:
    """A prior on four lines of the drive and one of a drive that is not there."""
    camera = Intrinsics(16, 16, 15.5, 5.5, 32, 12)
    Prior(np.full((12, 32), 9.0, np.float32), np.zeros(grid_shape(), np.float32), camera, 1).save(tmp_path / "p.npz")
    lines = [f"{tiny.DRIVE} {frame} l\n" for frame in (5, 7, 6, 8)] + ["2000_01_01_drive_0009_sync 1 l\n"]
    (tmp_path / "split.txt").write_text("".join(lines))
    return ["eval", "depth", "--data", str(drive.root), "--model", str(tmp_path / "p.npz"), "--split",
            str(tmp_path / "split.txt")]  # fmt: skip


def test_split_lines_that_cannot_be_scored_are_named_and_strict_refuses_them(
    drive: Kitti360, depth_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drive.image_path(5).unlink()
    drive.scan_path(7).unlink()
    drive.scan_path(6).write_bytes(b"cut")
    assert cli.main(depth_arguments) == 0
    out = capsys.readouterr().out
    assert "depth, 1 frame," in out and "left out: 3 lines whose files are missing" in out
    assert f"left out: 1 frame that could not be read: {drive.scan_path(6)}: got 3 bytes" in out
    for mended, sentence in (
        (None, "line 1: names frame 5"),
        ("".join(f"{tiny.DRIVE} {frame} l\n" for frame in (7, 6)), f"whose scan {drive.scan_path(7)} is missing"),
        (f"{tiny.DRIVE} 6 l\n", "got 3 bytes"),
    ):
        if mended:
            Path(depth_arguments[-1]).write_text(mended)
        assert cli.main([*depth_arguments, "--strict"]) == 2
        assert sentence in capsys.readouterr().err
    # Nothing but a damaged frame.
    assert cli.main(depth_arguments) == 2
    assert "none of the 1 frames could be read" in capsys.readouterr().err


def test_a_damaged_image_is_left_out_and_named(
    drive: Kitti360, depth_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drive.image_path(7).write_bytes(b"no image")
    assert cli.main([*depth_arguments[:-2], "--stop", "8"]) == 0
    out = capsys.readouterr().out
    assert "depth, 3 frames" in out and f"could not be read: {drive.image_path(7)}" in out


def test_ranks_share_the_frames_of_depth_and_print_one_table(
    drive: Kitti360, depth_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torchrun is torch's")
    drive.scan_path(6).write_bytes(b"cut")
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    assert cli.main([*depth_arguments, "--csv", str(alone)]) == 0
    said = capsys.readouterr().out
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kyn_ros.cli"]
    done = subprocess.run(
        [*command, *depth_arguments, "--csv", str(shared)],
        cwd=Path(cli.__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shared.read_text() == alone.read_text() and len(alone.read_text().splitlines()) == 4
    assert done.stdout == said.replace(str(alone), str(shared)) and "left out: 1 frame" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["depth", "--csv", "nowhere/scores.csv"], "nowhere/scores.csv: no such file or directory"),
        (["depth", "--csv", "/"], "/: is a directory"),
        (["occupancy"], "12 posed frames"),
        (["depth", "--start", "99"], "no frame with image"),
        (["depth", "--every", "0"], "at least 1"),
        (["depth", "--layout", "kitti_odometry"], "got no sequence"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(
    drive: Kitti360, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    prior = tmp_path / "prior.npz"
    Prior(np.ones((2, 2), np.float32), np.zeros(grid_shape(), np.float32), Intrinsics(1, 1, 0, 0, 2, 2), 1).save(prior)
    assert cli.main(["eval", *arguments, "--data", str(drive.root), "--model", str(prior)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and "3 to 80 m" not in said.out
    assert cli.main(["eval", "depth", "--data", str(drive.root), "--model", str(tmp_path / "none")]) == 2
