"""kyn prepare kitti360: names, pixels, what is there already, and every way of ending early or not being readable."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models.cli import main
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti360_prepare import PrepareOptions, is_whole, plan, prepare
from kyn_models.data.mei_camera import mei_text
from kyn_models.data.prepare_pool import Made
from kyn_models.data.street_sensors import CAM_TO_POSE, FISHEYES

ROOT = Path(__file__).resolve().parents[1]
FRAMES = range(5, 17)
OPTIONS = PrepareOptions(size=(12, 32))
COMMAND = [sys.executable, "-m", "kyn_ros.cli", "prepare", "kitti360", "--size", "32x12"]


def images(root: Path, camera: str) -> Path:
    return root / "data_2d_raw" / tiny.DRIVE / f"image_{camera}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tiny drive of 12 frames with both perspective and both fisheye cameras."""
    root = tiny.write_drive(tmp_path / "kitti360", FRAMES, cameras=("00", "01"))
    noise = np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8)
    for camera in FISHEYES:
        (images(root, camera) / "data_rgb").mkdir(parents=True)
        for frame in FRAMES:
            cv2.imwrite(str(images(root, camera) / "data_rgb" / f"{frame:010d}.png"), np.roll(noise, frame, 1))
        lens = FISHEYES[camera].resized(70, 70)
        (root / "calibration" / f"image_{camera}.yaml").write_text(mei_text(lens, f"image_{camera}"))
        with (root / "calibration" / "calib_cam_to_pose.txt").open("a") as file:
            file.write(f"image_{camera}: {CAM_TO_POSE[f'image_{camera}']}\n")
    return root


def prepared(root: Path) -> dict[str, bytes]:
    """Every file of the prepared folders by its path below the drive."""
    base = root / "data_2d_raw" / tiny.DRIVE
    return {str(path.relative_to(base)): path.read_bytes() for path in base.glob("image_*/data_12x32*/*")}


def test_folders_have_the_published_names_and_files_the_frames(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "kitti360", "--data", str(data), "--size", "32x12", "--workers", "1"]) == 0
    folders = {"00": "data_12x32", "01": "data_12x32", "02": "data_12x32_0x-15", "03": "data_12x32_0x-15"}
    expected = {f"image_{camera}/{folder}/{frame:010d}.png" for camera, folder in folders.items() for frame in FRAMES}
    assert set(prepared(data)) == expected
    out = capsys.readouterr().out
    assert "48 images of cameras 00, 01, 02, 03" in out and "48 images made in" in out and "images/s" in out
    small = cv2.imread(str(images(data, "00") / "data_12x32" / "0000000006.png"))[..., ::-1]
    np.testing.assert_array_equal(small, cv2.resize(tiny.image(6), (32, 12)))
    sample = Kitti360(data, prepared=(12, 32), views=(("02", 1), ("03", 1)))[0]
    assert [view.image.shape for view in sample.views] == [(12, 32, 3)] * 2
    assert all(view.image.std() > 20 for view in sample.views)


def test_default_size_and_rotation_are_the_published_ones() -> None:
    options = PrepareOptions()
    assert (options.size, options.rotations) == ((192, 640), ((0, -15),))


def test_another_folder_gets_all_that_a_reader_needs(data: Path, tmp_path: Path) -> None:
    tiny.write_timestamps(data)
    out = tmp_path / "small"
    arguments = [
        "--data",
        str(data),
        "--out",
        str(out),
        "--size",
        "32x12",
        "--rotations",
        "0x-15,0x0",
        "--workers",
        "1",
    ]
    assert main(["prepare", "kitti360", *arguments]) == 0
    assert not prepared(data)
    reader = Kitti360(out, prepared=(12, 32), rotation=(0, 0), views=(("02", 0), ("01", 0)))
    assert len(reader[3].views) == 2 and not reader.stamps_assumed
    here = Kitti360(data)
    np.testing.assert_array_equal(reader.k_norm(), here.intrinsics().normalised())
    np.testing.assert_allclose(reader.world_from_base(7), here.world_from_base(7))


def test_processes_make_the_same_files_as_one_and_whole_ones_stay(data: Path, tmp_path: Path) -> None:
    work = plan(data, data, OPTIONS)
    assert prepare(work, workers=2) == Made(48, 0)
    parallel = prepared(data)
    alone = tmp_path / "alone"
    assert prepare(plan(data, alone, OPTIONS), workers=1) == Made(48, 0)
    assert prepared(alone) == parallel
    stays, cut, other = (images(data, "02") / "data_12x32_0x-15" / f"{frame:010d}.png" for frame in (5, 6, 7))
    cut.write_bytes(cut.read_bytes()[:-20])
    cv2.imwrite(str(other), np.zeros((5, 5, 3), np.uint8))
    (images(data, "02") / "data_12x32_0x-15" / "0000000008.png.part").write_bytes(b"left by a run that was killed")
    before = stays.stat().st_mtime_ns
    assert prepare(work, workers=1) == Made(2, 46)
    assert stays.stat().st_mtime_ns == before
    assert {name: content for name, content in prepared(data).items() if name.endswith("png")} == parallel


def test_whole_files_are_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert not is_whole(path, 32, 12)
    path.write_bytes(b"")
    assert not is_whole(path, 32, 12)
    cv2.imwrite(str(path), np.zeros((12, 32, 3), np.uint8))
    assert is_whole(path, 32, 12) and not is_whole(path, 12, 32)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(path, 32, 12)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_images_that_cannot_be_read_are_named_and_counted_or_end_it(
    data: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = images(data, "02") / "data_rgb" / "0000000009.png"
    broken.write_bytes(broken.read_bytes()[:500])
    wrong = images(data, "01") / "data_rect" / "0000000010.png"
    cv2.imwrite(str(wrong), np.zeros((10, 20, 3), np.uint8))
    arguments = ["prepare", "kitti360", "--data", str(data), "--size", "32x12", "--workers", workers]
    assert main([*arguments, "--strict"]) == 2
    error = capsys.readouterr().err
    assert "0000000010.png: got 20x10 pixels, expected 64x24" in error or "0000000009.png: is truncated" in error
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "2 could not be read and are left out" in captured.out
    assert captured.err.count("(left out)") == 2 and str(broken) in captured.err and str(wrong) in captured.err
    assert len(prepared(data)) == 46


def test_stopping_leaves_whole_files_and_the_next_run_makes_the_rest(data: Path) -> None:
    # Many links to one image of a size that takes a millisecond.
    source = images(data, "00") / "data_rect"
    big = data / "big.png"
    cv2.imwrite(str(big), np.random.default_rng(0).integers(0, 256, (200, 600, 3), np.uint8))
    text = (data / "calibration" / "perspective.txt").read_text()
    (data / "calibration" / "perspective.txt").write_text(text.replace("S_rect_00: 64 24", "S_rect_00: 600 200"))
    shutil.rmtree(source)
    source.mkdir()
    for frame in range(400):
        (source / f"{frame:010d}.png").symlink_to(big)
    command = [*COMMAND, "--data", str(data), "--cameras", "00", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    target = images(data, "00") / "data_12x32"
    deadline = time.monotonic() + 60
    while not (target.is_dir() and any(target.glob("*.png"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command goes on with it" in error and "Traceback" not in error
    files = list(target.iterdir())
    assert 0 < len(files) < 400 and all(is_whole(path, 32, 12) for path in files)
    options = replace(OPTIONS, cameras=("00",))
    assert prepare(plan(data, data, options), workers=2) == Made(400 - len(files), len(files))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_cannot_be_written_is_one_sentence(data: Path, workers: str) -> None:
    limit = 300  # bytes per file, as a full disk would have it: the operating system refuses the rest

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*COMMAND, "--data", str(data), "--workers", workers]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, preexec_fn=small_files, timeout=60
    )
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr and "goes on with it" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("kyn prepare: ") and "file too large" in answer.stderr
    assert all(len(content) <= limit and name.endswith(".png") for name, content in prepared(data).items())


def test_a_process_that_dies_is_said(data: Path) -> None:
    def kill(made: Made) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    many = replace(OPTIONS, rotations=tuple((0, -number) for number in range(20)))
    with pytest.raises(OSError, match="a process ended before its work was done"):
        prepare(plan(data, data, many), workers=2, progress=kill)


def test_only_what_the_samples_of_a_split_need(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = tmp_path / "split.txt"
    split.write_text(f"{tiny.DRIVE} 5 l\n{tiny.DRIVE} 99 l\n2000_01_01_drive_0009_sync 5 r\n")
    arguments = ["--data", str(data), "--size", "32x12", "--splits", str(split), "--workers", "1"]
    assert main(["prepare", "kitti360", *arguments]) == 0
    frames = {camera: sorted(int(p.stem) for p in images(data, camera).glob("data_12x32*/*")) for camera in FISHEYES}
    assert frames == {"02": [15, 16], "03": [15, 16]}
    frames = {camera: sorted(int(p.stem) for p in images(data, camera).glob("data_12x32/*")) for camera in ("00", "01")}
    assert frames == {"00": [5, 6], "01": [5, 6]}
    out = capsys.readouterr().out
    assert f"{tiny.DRIVE} has no pose for 1 lines" in out
    assert "1 lines of the splits name drives that are not among those here: 2000_01_01_drive_0009_sync" in out
    split.write_text("".join(f"drive_{number} 5 l\n" for number in range(30)))
    with pytest.raises(FileNotFoundError, match="to prepare; 30 lines of the splits name drives that are not among"):
        plan(data, data, replace(OPTIONS, splits=(split,)))


def test_what_is_missing_is_said_before_the_work(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(images(data, "03"))
    (data / "calibration" / "image_02.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_02\.yaml: missing, expected the fisheye camera"):
        plan(data, data, OPTIONS)
    work = plan(data, data, replace(OPTIONS, cameras=("00", "03")))
    assert list(work.shots) == ["00"] and len(work.lacks) == 1 and work.lacks[0].endswith("data_rgb: missing, left out")
    with pytest.raises(FileNotFoundError, match="got no image of cameras 03"):
        plan(data, data, replace(OPTIONS, cameras=("03",)))
    for arguments, message in (
        (["--data", str(data / "none")], "there is no such folder"),
        (["--data", str(data), "--drives", "other"], "no such drive"),
        (["--data", str(data), "--cameras", "00,07"], "cameras: got '07', expected 00, 01, 02 or 03"),
        (["--data", str(data), "--size", "12"], "--size: got '12', expected WIDTHxHEIGHT"),
        (["--data", str(data), "--rotations", "down"], "--rotations: got 'down', expected yaw and pitch"),
        (["--data", str(data), "--workers", "0"], "--workers: got 0"),
        (["--data", str(data), "--splits", str(data / "s.txt")], "there is no such file, expected a split file"),
    ):
        assert main(["prepare", "kitti360", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not prepared(data)


def test_real_frames_without_fisheye_images(shared_data: Path, tmp_path: Path) -> None:
    root, out = shared_data / "kitti360", tmp_path / "out"
    arguments = ["--data", str(root), "--out", str(out), "--workers", "1"]
    answer = subprocess.run(
        [*COMMAND[:-2], *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    for camera, folder in (("01", "data_rect"), ("02", "data_rgb"), ("03", "data_rgb")):
        assert f"image_{camera}/{folder}: missing, left out" in answer.stdout
    assert "24 images made" in answer.stdout
    reader, source = Kitti360(out, prepared=(192, 640)), Kitti360(root)
    assert reader.frames == source.frames
    np.testing.assert_allclose(
        reader.k_norm(), [[0.784878, 0, -0.031180], [0, 2.939118, 0.270051], [0, 0, 1]], atol=1e-6
    )
    assert reader.intrinsics() == source.intrinsics().resized(640, 192)
    small = cv2.resize(source.posed_frame(3010).image, (640, 192))
    np.testing.assert_array_equal(reader.posed_frame(3010).image, small)
