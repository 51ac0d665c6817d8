"""The published KITTI raw depth protocol: numbers that can be computed by hand, the command, and real frames."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_raw import DRIVE, HEIGHT, WIDTH, write_raw

from kyn_models import cli, published_depth
from kyn_models.artifact import KITTI360_CAMERA, Artifact, default_artifact, write_artifact
from kyn_models.baselines import Prior
from kyn_models.cli.eval import same_kind
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.kitti_raw_split import KittiRawSplit
from kyn_models.data.lidar_occupancy import grid_shape
from kyn_models.published_depth import PublishedRow
from kyn_models.types import Float32Array, Intrinsics, Sample

NEARER = (math.log(1.25), math.log(0.75))
"""Truth is 8 m at two pixels, the answers are 10 m and 6 m."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two frames with two returns that count, one with none."""
    root = write_raw(tmp_path / "raw")
    far = np.array([[85.0, 0, 0, 0], [8.0, 0, 1.5, 0], [8.0, 7.6, 0, 0]], dtype=np.float32)
    far.tofile(KittiRawFolder(root).scan_path(DRIVE, 2))  # beyond 80 m, above the crop, left of it
    return root


@pytest.fixture
def split(root: Path) -> Path:
    path = root / "split.txt"
    path.write_text("".join(f"{DRIVE} {frame:010d} l\n" for frame in (0, 1, 2, 77)))
    return path


def answer() -> Float32Array:
    """(20, 64): pixel (19, 63) of the image takes (9, 31), pixel (27, 79) takes (13, 39)."""
    depth = np.full((20, 64), 1000.0, np.float32)
    depth[9, 31], depth[13, 39] = 10.0, 6.0
    return depth


class Constant:
    """The same image of depth for every frame."""

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        return answer(), sample.observation.key.intrinsics.resized(64, 20)


def published(frames: KittiRawSplit, **options: Any) -> list[PublishedRow]:
    """Rows of the constant answer for all frames."""
    return [
        row
        for index in range(len(frames))
        for row in published_depth.published_rows(Constant(), frames[index], frames.published_depth(index), **options)
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_scores_of_a_frame_by_hand(root: Path, split: Path, whole: bool) -> None:
    frames = KittiRawSplit(root, split)
    rows = published(frames, whole=whole)
    plain, scaled = rows[0], rows[1]
    assert (plain.scaling, scaled.scaling, plain.scores.pixels, plain.outside) == ("none", "median", 2, 0)
    expected = (0.25, 0.5, 2.0, math.sqrt((NEARER[0] ** 2 + NEARER[1] ** 2) / 2), 0.0, 1.0, 1.0)
    np.testing.assert_allclose(plain.scores[:7], expected, rtol=1e-6)
    # Of two values the lower one is the median: 8 / 6; the answers become 13.33 m and 8 m.
    assert scaled.factor == pytest.approx(4 / 3)
    error = 16 / 3
    expected = (error / 16, error**2 / 16, math.sqrt(error**2 / 2), math.log(5 / 3) / math.sqrt(2), 0.5, 0.5, 1.0)
    np.testing.assert_allclose(scaled.scores[:7], expected, rtol=1e-6)
    assert [row.scores.pixels for row in rows] == [2, 2, 2, 2, 0, 0]
    assert math.isnan(rows[4].scores.abs_rel) and math.isnan(rows[5].factor)


def test_without_crop_the_pixels_outside_it_count(root: Path, split: Path) -> None:
    rows = published(KittiRawSplit(root, split), crop="none", scalings=("none",))
    assert [row.scores.pixels for row in rows] == [2, 2, 2]
    assert rows[2].scores.rmse == pytest.approx(72.0)  # 1000 m counts as 80 m


def test_the_crop_of_a_kitti_image_in_pixels() -> None:
    counted = ~np.isnan(published_depth.counted_truth(np.full((375, 1242), 5.0, np.float32), "garg"))
    rows, columns = np.flatnonzero(counted.any(axis=1)), np.flatnonzero(counted.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (153, 370, 44, 1196)
    edges = np.array([[1e-3, 2e-3, 79.99, 80.0, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(
        ~np.isnan(published_depth.counted_truth(edges, "none")), [[False, True, True, False, False]]
    )


def test_enlargement_is_the_evaluators_interpolation() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    depth = np.random.default_rng(0).random((192, 640), dtype=np.float32)
    for shape in ((375, 1242), (370, 1226), (376, 1241), (370, 1224), (374, 1238)):
        expected = torch.nn.functional.interpolate(torch.from_numpy(depth)[None, None], shape)[0, 0].numpy()
        np.testing.assert_array_equal(published_depth.enlarged(depth, shape), expected)


def test_median_counts_what_has_no_depth_as_80_m() -> None:
    truth = np.array([8.0, 8.0, 8.0, np.nan], dtype=np.float32)
    assert published_depth.median_factor(np.array([np.inf, np.nan, 4, 1], np.float32), truth) == pytest.approx(0.1)


@pytest.fixture
def trained_here(root: Path, tmp_path: Path) -> Artifact:
    """A small model with name-seeded weights whose training camera is that of the tiny drive."""
    for library in ("torch", "safetensors"):
        pytest.importorskip(library, reason="needs the train extra")
    from artifacts import write_seeded_artifact

    written = write_seeded_artifact(tmp_path / "model", width=128, height=64)
    camera = replace(written.manifest.camera, source=KittiRawFolder(root).intrinsics(DRIVE, "02"))
    return write_artifact(written.path, replace(written.manifest, camera=camera), {})


def test_rays_are_those_of_the_published_evaluator(root: Path, split: Path, trained_here: Artifact) -> None:
    import torch

    from kyn_models.geometry import View
    from kyn_models.models.loading import load_model
    from kyn_models.published_rays import PublishedRays
    from kyn_models.render import z_samples

    sample = KittiRawSplit(root, split)[0]
    depth, camera = PublishedRays(trained_here).depth(sample)
    assert depth.shape == (64, 128) and (camera.width, camera.height) == (128, 64)
    # The same by the definition, for some pixels: unit directions, points at distances, the field asked point by point.
    k_norm = sample.observation.key.intrinsics.normalised()
    image = cv2.resize(sample.observation.key.image.astype(np.float32) / 127.5 - 1, (128, 64))
    tensor = torch.from_numpy(image.transpose(2, 0, 1))[None].float()
    with torch.inference_mode():
        view = View(tensor, torch.from_numpy(k_norm).float()[None], torch.eye(4)[None])
        field = load_model(trained_here).condition(view)
        distances = z_samples(field.z_near, field.z_far).numpy().astype(np.float64)
        for row, column in ((0, 0), (33, 64), (63, 127), (20, 7)):
            ray = np.linalg.inv(k_norm) @ (2 * column / 127 - 1, 2 * row / 63 - 1, 1.0)
            ray /= np.linalg.norm(ray)
            points = torch.from_numpy(distances[:, None] * ray).float()[None]
            alpha = 1 - np.exp(-np.diff(distances, append=1e10) * field(points)[0].numpy())
            alpha[-1] = 1
            weights = alpha * np.cumprod(np.append(1, 1 - alpha[:-1]))
            assert depth[row, column] == pytest.approx((weights * distances).sum() * ray[2], rel=2e-4)


def test_models_trained_on_such_images_are_asked_as_published(
    root: Path, split: Path, trained_here: Artifact, capsys
) -> None:
    assert run("--data", root, "--model", trained_here.path, "--split", split, "--every", 2) == 0
    out = capsys.readouterr().out
    assert "image resized to 128x64, rays as published" in out and "depth, 2 frames" in out
    assert run("--data", root, "--model", trained_here.path, "--split", split, "--runtime", "openvino") == 2
    assert "--runtime: got openvino, but torch computes the published rays" in capsys.readouterr().err


def save_prior(path: Path, camera: Intrinsics) -> Path:
    Prior(answer(), np.zeros(grid_shape(), np.float32), camera, 1).save(path)
    return path


def run(*words: object) -> int:
    return cli.main(["eval", "depth", "--layout", "kitti_raw", *map(str, words)])


def test_command_prints_both_rows_and_writes_csv(root: Path, split: Path, capsys, tmp_path: Path) -> None:
    prior = save_prior(tmp_path / "prior.npz", KittiRawFolder(root).intrinsics(DRIVE, "02").resized(64, 20))
    scores = tmp_path / "scores.csv"
    assert run("--data", root, "--model", prior, "--split", split, "--csv", scores) == 0
    out = capsys.readouterr().out
    assert "3 frames of split.txt, published KITTI raw protocol" in out and "Garg crop, below 80 m" in out
    assert "left out: 1 line " in out and "line 4: names frame 77" in out
    plain, scaled = (line.split() for line in out.splitlines() if line.startswith(("as it is", "scaled")))
    assert plain[3:] == ["0.2500", "0.5000", "2.0000", "0.2574", "0.0000", "1.0000", "1.0000", "1.000", "4", *"001"]
    assert scaled[4] == "0.3333" and scaled[11:] == ["1.333", "4", "0", "0", "1"]
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["frame"].endswith("0000000000_02") and rows[1]["scaling"] == "median"
    assert float(rows[0]["abs_rel"]) == pytest.approx(0.25) and rows[4]["abs_rel"] == "nan"


def test_a_damaged_scan_is_left_out_and_named(root: Path, split: Path, capsys, tmp_path: Path) -> None:
    prior = save_prior(tmp_path / "prior.npz", KittiRawFolder(root).intrinsics(DRIVE, "02").resized(64, 20))
    damaged = KittiRawFolder(root).scan_path(DRIVE, 0)
    damaged.write_bytes(b"cut")
    assert run("--data", root, "--model", prior, "--split", split) == 0
    out = capsys.readouterr().out
    assert "2 frames of split.txt" in out and f"1 frame that could not be read: {damaged}: got 3 bytes" in out
    split.write_text(f"{DRIVE} 1 l\n{DRIVE} 0 l\n")
    assert run("--data", root, "--model", prior, "--split", split, "--strict") == 2
    assert "got 3 bytes" in capsys.readouterr().err


def test_command_options_choose_frames_crop_and_scaling(root: Path, split: Path, capsys, tmp_path: Path) -> None:
    prior = save_prior(tmp_path / "prior.npz", KittiRawFolder(root).intrinsics(DRIVE, "02").resized(64, 20))
    common = ("--data", root, "--model", prior)
    assert run(*common, "--split", split, "--crop", "none", "--median-scaling", "off", "--start", 2) == 0
    out = capsys.readouterr().out
    assert "depth, 1 frame of " in out and "no crop" in out and "scaled by the median" not in out
    # Without a split the options choose the protocol, on all frames of the drive; without both nothing changes.
    assert run(*common, "--median-scaling", "only") == 0
    out = capsys.readouterr().out
    assert "3 frames of raw, published KITTI raw protocol" in out and "as it is" not in out
    assert run(*common) == 0
    assert "3 frames, 3 to 80 m, no crop, no scaling" in capsys.readouterr().out
    assert run(*common, "--every", 2, "--start", 1) == 0
    assert "depth, 1 frame, 3 to 80 m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--strict",), "line 4: names frame 77"),
        (("--rays", "published"), "for the prior"),
        (("--start", "50"), "none of which was chosen"),
        (("--layout", "kitti360", "--crop", "garg"), "expected --layout kitti_raw"),
        (("--camera", "01"), "--camera: got 01, which kitti_raw does not use"),
        (("--layout", "kitti360", "--drive", "x"), "--drive: got x, which --split"),
        (("--layout", "kitti_odometry"), "expected kitti360 or kitti_raw for split files"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(
    root: Path, split: Path, capsys, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    prior = save_prior(tmp_path / "prior.npz", Intrinsics(64, 64, 64, 20, WIDTH, HEIGHT).resized(64, 20))
    assert run("--data", root, "--model", prior, "--split", split, *words) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1


def test_images_of_one_kind_are_those_of_equal_focal_share() -> None:
    dates = (
        Intrinsics(721.54, 721.54, 609.56, 172.85, 1242, 375),
        Intrinsics(707.09, 707.09, 601.89, 183.11, 1226, 370),
    )
    assert same_kind(dates[0], dates[1]) and not same_kind(KITTI360_CAMERA, dates[0])


def test_real_frames_with_the_shipped_model(shared_data: Path, tmp_path: Path, capsys) -> None:
    if not default_artifact().is_dir():
        pytest.skip("the shipped model is not in this source tree")
    split = tmp_path / "split.txt"
    split.write_text("".join(f"2011_09_26/2011_09_26_drive_0048_sync {frame} l\n" for frame in (0, 2)))
    assert run("--data", shared_data / "kitti_raw", "--split", split, "--rays", "runtime") == 0
    out = capsys.readouterr().out
    plain, scaled = (line.split() for line in out.splitlines() if line.startswith(("as it is", "scaled")))
    assert "image warped to the training camera" in out and int(plain[11]) > 25000 and plain[-1] == "0"
    assert 0.15 < float(scaled[4]) < 0.3 and 0.15 < float(plain[3]) < 0.3 and scaled[4] != plain[3]
