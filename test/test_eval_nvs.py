"""Scores of second views: metrics against scikit-image, true depth on a street, the published protocol, the command."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny
import tiny_raw
import tiny_realestate

pytest.importorskip("numba")

from kyn_models import evaluate_nvs
from kyn_models.artifact import write_artifact
from kyn_models.cli import main
from kyn_models.cli.eval_nvs import OPTIONS
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.streets import Streets, StreetsOptions
from kyn_models.evaluate_nvs import NvsOptions, TrueDepthViews, UnmovedViews, inner
from kyn_models.image_metrics import psnr, ssim
from kyn_models.novel_view import Scene, Source, pixel_rays, render
from kyn_models.types import Intrinsics, Observation, PosedFrame, Sample

SMALL = NvsOptions(320, 96, samples=192)


@pytest.fixture(scope="module")
def street() -> Sample:
    return Streets(StreetsOptions(1, 1, first_seed=910_000, width=320, height=96))[0]


def test_metrics_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    a = rng.random((61, 83, 3), np.float32)
    for b in (np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1).astype(np.float32), np.roll(a, 1, axis=1), 1 - a):
        assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1), rel=1e-5)
        expected = metrics.structural_similarity(a, b, data_range=1, channel_axis=2)
        assert ssim(a, b) == pytest.approx(expected, abs=1e-5)
    assert psnr(a, a) == math.inf and ssim(a, a) == pytest.approx(1)


def test_metrics_refuse_what_they_cannot_compare():
    a = np.zeros((20, 30, 3))
    with pytest.raises(ValueError, match="expected one shape"):
        psnr(a, a[:-1])
    with pytest.raises(ValueError, match="got 30x5 pixels, expected at least 7"):
        ssim(a[:5], a[:5])


def test_true_depth_gives_the_stereo_partner_and_a_wrong_pose_does_not(street: Sample):
    key, partner = street.observation.key, street.views[0]
    field = evaluate_nvs.depth_field(street.depth_m, key.intrinsics)
    scene = Scene(field, (Source.of(key, key),), outside="continued")
    rays = pixel_rays(partner.intrinsics, 2.0, 200.0)

    def score(world_from_camera: np.ndarray) -> float:
        """PSNR of the 93 % of pixels that fit best: the others show what the key camera does not see."""
        pose = np.linalg.inv(key.world_from_camera) @ world_from_camera
        shown = inner(render(scene, rays, pose, 192).colours)
        error = np.sort(((shown - inner(partner.image / 255)) ** 2).mean(axis=-1).ravel())
        return float(-10 * np.log10(error[: int(0.93 * error.size)].mean()))

    before = score(partner.world_from_camera)
    assert before > 30
    for metres, fall in ((0.1, 4), (0.3, 1), (0.6, 0)):
        pose = partner.world_from_camera.copy()
        pose[:3, 3] += metres * pose[:3, 0]
        wrong = score(pose)
        assert wrong < before - fall, metres
        before = wrong


def test_true_depth_beats_the_input_not_moved_by_the_published_protocol(street: Sample):
    truth = inner(SMALL.picture(street.views[0]))
    moved, unmoved = (psnr(inner(model.view(street, SMALL)), truth) for model in (TrueDepthViews(), UnmovedViews()))
    assert moved > 19 and moved > unmoved + 4


def test_a_frontal_wall_is_rendered_but_for_the_published_half_pixel():
    """A wall 10 m ahead, seen from 1 m to the right: a shift by fx / 10 pixels, no holes."""
    rng = np.random.default_rng(0)
    coarse = rng.random((7, 20, 3)).astype(np.float32)
    import cv2

    wall = cv2.resize(coarse, (360, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    image = np.rint(255 * wall).astype(np.uint8)
    camera = Intrinsics(200.0, 200.0, 160.0, 48.0, 320, 96)
    pose = np.eye(4)
    pose[0, 3] = 1.0
    key, target = image[:, :320], image[:, 20:340]
    sample = Sample(
        "wall",
        Observation((PosedFrame(np.ascontiguousarray(key), camera, 0, np.eye(4)),), np.eye(4)),
        (PosedFrame(np.ascontiguousarray(target), camera, 0, pose),),
        np.full((96, 320), 10.0, np.float32),
    )
    options = NvsOptions(320, 96, samples=512)
    shown = inner(TrueDepthViews().view(sample, options))[:, :-30]
    truth = inner(options.picture(sample.views[0]))[:, :-30]
    assert psnr(shown, truth) > 40
    assert psnr(inner(options.picture(sample.observation.key))[:, :-30], truth) < 25


def test_the_border_is_cut_as_published():
    picture = np.zeros((128, 384, 3))
    # ceil(6.4) to floor(121.6), ceil(19.2) to floor(364.8)
    assert inner(picture).shape == (114, 344, 3)
    marked = np.arange(128 * 384).reshape(128, 384, 1)
    assert inner(marked)[0, 0, 0] == 7 * 384 + 20 and inner(marked)[-1, -1, 0] == 120 * 384 + 363


def test_rows_means_and_a_distance(street: Sample):
    asked = []

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        asked.append((a.shape, b.shape))
        return float(np.abs(a - b).mean())

    options = NvsOptions(64, 32, samples=16)
    models = {"depth": TrueDepthViews(), "same": UnmovedViews()}
    rows = [row for _ in range(2) for row in evaluate_nvs.score_views(models, street, options, distance)]
    assert [row.answer for row in rows] == ["depth", "same"] * 2 and len(asked) == 4
    mean = evaluate_nvs.mean_nvs(rows, "same")
    assert mean.psnr == pytest.approx(rows[1].scores.psnr) and mean.lpips == pytest.approx(rows[1].scores.lpips)
    without = evaluate_nvs.score_views(models, street, options)
    assert all(math.isnan(row.scores.lpips) for row in without)


def test_samples_without_a_posed_view_are_named(street: Sample):
    for broken, words in (
        (replace(street, views=()), "got no further view"),
        (replace(street, views=(replace(street.views[0], world_from_camera=None),)), "got a view without a pose"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate_nvs.score_views({"same": UnmovedViews()}, broken, SMALL)
    with pytest.raises(ValueError, match="got no depth_m"):
        TrueDepthViews().view(replace(street, depth_m=None), SMALL)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return tiny.write_drive(tmp_path / "kitti360", frames=range(5, 8), cameras=("00", "01"))


def test_the_command_on_a_stereo_drive(drive, tiny_artifact, tmp_path, capsys):
    table = tmp_path / "scores.csv"
    common = ["eval", "nvs", "--data", str(drive), "--model", str(tiny_artifact), "--size", "64x24", "--samples", "8"]
    assert main([*common, "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert "3 frames at 64x24" in said and said.count("not computed") == 2 and "the input, not moved" in said
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 6 and rows[0]["lpips"] == "nan" and float(rows[1]["psnr"]) > 5
    # One frame later by the same camera: two frames have one.
    assert main([*common, "--offset", "1"]) == 0
    assert "2 frames" in capsys.readouterr().out
    split = tmp_path / "split.txt"
    split.write_text(f"{tiny.DRIVE} 6 l\n{tiny.DRIVE} 5 r\n{tiny.DRIVE} 7 l\n")
    assert main([*common, "--split", str(split)]) == 0
    assert "3 frames" in capsys.readouterr().out


def test_the_command_on_kitti_raw_with_the_stereo_partner(tiny_artifact, tmp_path, capsys, shared_data):
    drive = "2011_09_26/2011_09_26_drive_0048_sync"
    poses = tmp_path / f"{drive}.txt"
    poses.parent.mkdir()
    poses.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)
    split = tmp_path / "split.txt"
    split.write_text(f"{drive} 0000000000 l\n{drive} 0000000002 r\n")
    arguments = ["--layout", "kitti_raw", "--data", str(shared_data / "kitti_raw"), "--split", str(split)]
    arguments += ["--poses", str(tmp_path), "--model", str(tiny_artifact), "--samples", "8"]
    assert main(["eval", "nvs", *arguments]) == 0
    assert "2 frames at 384x128" in capsys.readouterr().out


def test_the_command_on_realestate10k_compares_with_the_fifth_frame_after(tiny_artifact, tmp_path, capsys):
    root, table, split = tmp_path / "re10k", tmp_path / "scores.csv", tmp_path / "test_files.txt"
    tiny_realestate.write_prepared(root, "0a1b", count=7)
    split.write_text("0a1b 0\nffee 3\n0a1b 1\n")
    arguments = ["--layout", "realestate10k", "--data", str(root), "--split", str(split), "--csv", str(table)]
    arguments += ["--model", str(tiny_artifact), "--size", "64x32", "--samples", "4"]
    assert OPTIONS["realestate10k"] == NvsOptions(384, 256, samples=48)

    def unmoved(*more: str) -> list[float]:
        assert main(["eval", "nvs", *arguments, *more]) == 0
        rows = csv.DictReader(table.open())
        return [float(row["psnr"]) for row in rows if row["answer"] == "the input, not moved"]

    # Two of three channels change by 10 of 255 a frame.
    def expected(frames: int) -> float:
        return -10 * math.log10(2 / 3 * (10 * frames / 255) ** 2)

    assert unmoved() == pytest.approx([expected(5)] * 2, abs=0.3)
    said = capsys.readouterr().out
    assert "2 frames at 64x32" in said and "left out: 1 line" in said and "line 2: names frame 3 of ffee" in said
    # One frame before, and the first frame has none: as published it is its own.
    before = unmoved("--offset", "-1")
    assert before[0] == math.inf and before[1] == pytest.approx(expected(1), abs=1)


def test_the_command_with_lpips_on_streets(tiny_artifact, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from kyn_models.networks.lpips import Lpips

    torch.save(Lpips("alex").state_dict(), tmp_path / "whole.pth")
    common = ["eval", "nvs", "--layout", "streets", "--frames", "1", "--model", str(tiny_artifact), "--size", "80x48"]
    assert main([*common, "--samples", "8", "--lpips", str(tmp_path / "whole.pth")]) == 0
    said = capsys.readouterr().out
    assert "true depth of the input" in said and "not computed" not in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--data: got none, expected the folder of kitti360"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "{drive}", "--size", "64"], "--size: got 64, expected WIDTHxHEIGHT"),
        (["--data", "{drive}", "--size", "8x8"], "size: got 8x8, expected at least 16x16"),
        (["--data", "{drive}", "--samples", "1"], "--samples: got 1, expected at least 2"),
        (["--data", "{drive}", "--every", "0"], "--every: got 0"),
        (["--data", "{drive}", "--offset", "9"], "none has a pose"),
        (["--data", "{drive}", "--offset", "0"], "--offset: got 0"),
        (["--data", "{drive}", "--layout", "realestate10k"], "cameras: missing or empty"),
        (["--data", "{drive}", "--layout", "kitti_raw"], "--split: got none, expected a frame list"),
        (["--layout", "streets", "--frames", "0"], "--frames: got 0"),
        (["--layout", "streets", "--data", "{drive}"], "which streets does not use"),
        (["--data", "{drive}", "--seed", "3"], "--seed: got 3, which kitti360 does not use"),
        (["--data", "{drive}", "--split", "x.txt", "--drive", "y"], "--drive: got y, which --split"),
        (["--data", "{drive}", "--lpips", "nowhere.pth"], "nowhere.pth"),
        (["--data", "{drive}", "--lpips-backbone", "nowhere.pth"], "--lpips-backbone: got no --lpips"),
    ],
)
def test_user_errors_are_one_sentence(drive, tiny_artifact, capsys, arguments, words):
    arguments = [word.format(drive=drive) for word in arguments]
    assert main(["eval", "nvs", *arguments, "--model", str(tiny_artifact)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_lines_that_lack_files_and_damaged_images_are_named_and_strict_refuses_them(
    drive, tiny_artifact, tmp_path, capsys
):
    images = drive / "data_2d_raw" / tiny.DRIVE
    damaged = images / "image_01" / "data_rect" / f"{6:010d}.png"
    damaged.write_bytes(b"no image")
    (images / "image_01" / "data_rect" / f"{7:010d}.png").unlink()
    split = tmp_path / "split.txt"
    split.write_text("".join(f"{tiny.DRIVE} {frame} l\n" for frame in (7, 6, 5)))
    common = ["eval", "nvs", "--data", str(drive), "--model", str(tiny_artifact), "--size", "64x24", "--samples", "8"]
    assert main([*common, "--split", str(split)]) == 0
    said = capsys.readouterr().out
    assert "1 frame at 64x24" in said and "left out: 1 line whose files are missing, the first:" in said
    assert "line 1: names frame 7" in said and f"1 frame that could not be read: {damaged}" in said
    for lines, words in (((7, 5), "names frame 7"), ((6, 5), "0000000006.png")):
        split.write_text("".join(f"{tiny.DRIVE} {frame} l\n" for frame in lines))
        assert main([*common, "--split", str(split), "--strict"]) == 2
        assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Sample:
    root = tiny.write_drive(tmp_path_factory.mktemp("pair") / "kitti360", frames=range(5, 7), cameras=("00", "01"))
    return Kitti360(root, views=(("01", 0),))[0]


@pytest.mark.parametrize("family", ["bts", "kyn"])
def test_published_views_are_of_the_whole_image_and_points_come_in_runs(family, pair, tmp_path, monkeypatch):
    for library in ("torch", "safetensors"):
        pytest.importorskip(library)
    import cv2
    import torch
    from artifacts import seeded_bts, seeded_kyn, write_seeded_artifact

    from kyn_models import published_rays
    from kyn_models.geometry import View
    from kyn_models.models.loading import load_model

    model = seeded_kyn() if family == "kyn" else seeded_bts()
    artifact = write_seeded_artifact(tmp_path / "model", model, width=96, height=64)
    monkeypatch.setattr(published_rays, "POINTS_PER_CALL", 1000)
    options = NvsOptions(48, 24, samples=8)
    view = published_rays.PublishedRays(artifact).view(pair, options)
    key = pair.observation.key
    image = cv2.resize(key.image.astype(np.float32) / 127.5 - 1, (96, 64)).transpose(2, 0, 1)
    with torch.inference_mode():
        tensors = (torch.from_numpy(array).float()[None] for array in (image, key.intrinsics.normalised(), np.eye(4)))
        field = load_model(artifact).condition(View(*tensors))

        def rendered(run: int) -> np.ndarray:
            def density(points: np.ndarray) -> np.ndarray:
                assert len(points) == 48 * 24 * 8
                runs = (torch.from_numpy(points[i : i + run]) for i in range(0, len(points), run))
                return np.concatenate([field(part[None])[0].numpy() for part in runs])

            source = Source(options.picture(key), key.intrinsics.normalised(), np.eye(4))
            scene = Scene(density, (source,), whole=True, outside="continued")
            return evaluate_nvs.published_view(scene, pair, options, (3.0, 80.0)).colours

        np.testing.assert_allclose(view, rendered(1000), atol=1e-4)
        assert (np.abs(view - rendered(3000)).max() > 2e-4) == (family == "kyn")


def test_models_trained_with_such_a_camera_get_the_whole_image_as_published(tmp_path, capsys):
    for library in ("torch", "safetensors"):
        pytest.importorskip(library)
    from artifacts import write_seeded_artifact

    root, split = tiny_raw.write_raw(tmp_path / "raw"), tmp_path / "split.txt"
    poses = tmp_path / f"{tiny_raw.DRIVE}.txt"
    poses.parent.mkdir(parents=True)
    poses.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)
    split.write_text(f"{tiny_raw.DRIVE} 1 l\n{tiny_raw.DRIVE} 77 l\n")
    written = write_seeded_artifact(tmp_path / "model", width=96, height=64)
    camera = replace(written.manifest.camera, source=KittiRawFolder(root).intrinsics(tiny_raw.DRIVE, "02"))
    write_artifact(written.path, replace(written.manifest, camera=camera), {})
    common = ["eval", "nvs", "--layout", "kitti_raw", "--data", str(root), "--split", str(split), "--samples", "4"]
    common += ["--poses", str(tmp_path), "--model", str(written.path), "--size", "48x24"]
    assert main(common) == 0
    said = capsys.readouterr().out
    assert "image resized to 96x64" in said and "left out: 1 line" in said and "1 frame at 48x24" in said
    assert main([*common, "--strict"]) == 2 and "names frame 77" in capsys.readouterr().err


def test_ranks_share_the_frames_of_second_views(drive, tiny_artifact, tmp_path, capsys):
    pytest.importorskip("torch", reason="torchrun is torch's")
    alone, together = tmp_path / "alone.csv", tmp_path / "together.csv"
    common = ["eval", "nvs", "--data", str(drive), "--model", str(tiny_artifact), "--size", "64x24", "--samples", "8"]
    common += ["--runtime", "torch"]
    assert main([*common, "--csv", str(alone)]) == 0
    said = capsys.readouterr().out.replace(str(alone), str(together))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kyn_ros.cli"]
    done = subprocess.run(
        [*command, *common, "--csv", str(together)],
        cwd=Path(evaluate_nvs.__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == said and len(together.read_text().splitlines()) == 7
    frames = [[line.split(",")[:2] for line in path.read_text().splitlines()] for path in (alone, together)]
    assert frames[0] == frames[1]
