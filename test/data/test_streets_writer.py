"""Synthetic drives on disk: read back by the files alone, as a KITTI-360 reader would."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from kyn_models.cli import main
from kyn_models.data import street_writer
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.street_sensors import BASE_FROM_VEHICLE, CAM_TO_VELO, Mount, base_from_camera
from kyn_models.data.street_writer import MARKER, write_kitti360
from kyn_models.data.streets import StreetOptions, make_street

SIZE = (704, 188)


def matrix(text: str, rows: int, columns: int) -> np.ndarray:
    out = np.eye(4)
    out[:rows, :columns] = np.array(text.split(), float).reshape(rows, columns)
    return out


def keyed(path: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streets")
    mount = Mount(height_m=0.07, pitch_rad=0.02, roll_rad=-0.01)
    street = make_street(11, StreetOptions(drive_m=20.0))
    names = write_kitti360(street, out, [2, 5], cameras=("00", "01", "left"), size=SIZE, mount=mount)
    assert names == ["2013_05_28_drive_9000_sync"]
    return out


def test_every_file_of_the_layout_is_there(drive: Path) -> None:
    name = "2013_05_28_drive_9000_sync"
    frames = ("0000000002", "0000000005")
    expected = {
        MARKER,
        "data_truth/cameras.txt",
        f"data_poses/{name}/poses.txt",
        f"data_poses/{name}/cam0_to_world.txt",
    }
    expected |= {f"calibration/{k}.txt" for k in ("calib_cam_to_pose", "calib_cam_to_velo", "calib_sick_to_velo")}
    expected |= {"calibration/perspective.txt", f"data_3d_raw/{name}/velodyne_points/timestamps.txt"}
    expected |= {f"data_2d_raw/{name}/image_0{k}/timestamps.txt" for k in (0, 1)}
    for frame in frames:
        expected |= {f"data_2d_raw/{name}/image_0{k}/data_rect/{frame}.png" for k in (0, 1)}
        expected |= {f"data_3d_raw/{name}/velodyne_points/data/{frame}.bin"}
        expected |= {
            f"data_truth/{name}/{camera}/{kind}/{frame}.png"
            for camera in ("00", "01", "left")
            for kind in ("depth", "instance", "moving")
        }
        expected |= {f"data_truth/{name}/left/image/{frame}.png"}
    assert {str(p.relative_to(drive)) for p in drive.rglob("*") if p.is_file()} == expected
    stamps = (drive / f"data_2d_raw/{name}/image_00/timestamps.txt").read_text().splitlines()
    assert len(stamps) == 6 and stamps[5] == "2013-05-28 12:00:00.500000000"


@pytest.mark.parametrize("camera", ["00", "01"])
def test_scan_through_the_written_calibration_meets_the_written_depth(drive: Path, camera: str) -> None:
    name, frame = "2013_05_28_drive_9000_sync", "0000000005"
    to_pose = keyed(drive / "calibration/calib_cam_to_pose.txt")
    lens = keyed(drive / "calibration/perspective.txt")
    velo_from_cam0 = matrix((drive / "calibration/calib_cam_to_velo.txt").read_text(), 3, 4)
    vehicle_from = {k: matrix(to_pose[f"image_{k}"], 3, 4) for k in ("00", "01")}
    rectified = matrix(lens[f"R_rect_{camera}"], 3, 3)
    camera_from_velo = (
        rectified @ np.linalg.inv(vehicle_from[camera]) @ vehicle_from["00"] @ np.linalg.inv(velo_from_cam0)
    )
    scan = np.fromfile(drive / f"data_3d_raw/{name}/velodyne_points/data/{frame}.bin", np.float32).reshape(-1, 4)
    assert len(scan) > 60_000 and scan[:, 3].min() >= 0 and scan[:, 3].max() < 1
    points = scan[:, :3] @ camera_from_velo[:3, :3].T + camera_from_velo[:3, 3]
    projection = matrix(lens[f"P_rect_{camera}"], 3, 4)
    depth = cv2.imread(str(drive / f"data_truth/{name}/{camera}/depth/{frame}.png"), cv2.IMREAD_UNCHANGED) / 256.0
    width, height = (int(float(v)) for v in lens[f"S_rect_{camera}"].split())
    assert depth.shape == (height, width) == SIZE[::-1]
    z = points[:, 2]
    u = projection[0, 0] * points[:, 0] / z + projection[0, 2]
    v = projection[1, 1] * points[:, 1] / z + projection[1, 2]
    ok = (z > 1) & (z < 15) & (u > 1) & (v > 1) & (u < width - 2) & (v < height - 2)
    i, j = np.round(v[ok]).astype(int), np.round(u[ok]).astype(int)
    steps = [abs(depth[i + a, j + b] - depth[i, j]) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    # Between pixel centres depth may differ by what it differs between neighbours, and by the file's 1/256 m.
    even = np.max(steps, axis=0) < 0.02
    error = abs(depth[i, j] - z[ok])[even]
    assert even.sum() > 500
    assert np.median(error) < 0.006
    # The laser sees around some edges that the camera does not: those points lie far behind what is in the picture.
    assert np.mean(error[error < 0.5] < 0.02) > 0.995 and np.mean(error < 0.5) > 0.8


def test_poses_and_camera_poses_are_one_chain(drive: Path) -> None:
    name = "2013_05_28_drive_9000_sync"
    poses = np.loadtxt(drive / f"data_poses/{name}/poses.txt")
    cameras = np.loadtxt(drive / f"data_poses/{name}/cam0_to_world.txt")
    assert poses[:, 0].tolist() == cameras[:, 0].tolist() == [2, 5]
    to_pose = matrix(keyed(drive / "calibration/calib_cam_to_pose.txt")["image_00"], 3, 4)
    rectified = matrix(keyed(drive / "calibration/perspective.txt")["R_rect_00"], 3, 3)
    for pose, camera in zip(poses[:, 1:], cameras[:, 1:], strict=True):
        world_from_vehicle = np.vstack([pose.reshape(3, 4), (0, 0, 0, 1)])
        assert np.allclose(world_from_vehicle @ to_pose @ np.linalg.inv(rectified), camera.reshape(4, 4), atol=2e-6)
        assert world_from_vehicle[2, 3] == pytest.approx(0.93, abs=1e-4)
    assert 2.0 < np.linalg.norm(poses[1, [4, 8]] - poses[0, [4, 8]]) < 3.7


def test_the_reader_of_real_drives_reads_them(drive: Path) -> None:
    data = Kitti360(drive)
    sample = data[1]
    street = make_street(11, StreetOptions(drive_m=20.0))
    mount = base_from_camera("00", Mount(height_m=0.07, pitch_rad=0.02, roll_rad=-0.01))
    assert len(data) == 2 and sample.observation.key.image.shape == (*SIZE[::-1], 3)
    assert np.allclose(sample.observation.base_from_camera, mount, atol=1e-5)
    assert np.allclose(data.world_from_base(5), street.world_from_base(0.5), atol=1e-5)
    assert data.base_from_velo()[2, 3] == pytest.approx(1.766, abs=0.002)


def test_chain_is_the_one_of_real_drives(shared_data: Path) -> None:
    drive = next((shared_data / "kitti360" / "data_poses").iterdir())
    poses, cameras = (np.loadtxt(drive / name)[:, 1:] for name in ("poses.txt", "cam0_to_world.txt"))
    for pose, camera in zip(poses, cameras, strict=True):
        world_from_base = np.vstack([pose.reshape(3, 4), (0, 0, 0, 1)]) @ np.linalg.inv(BASE_FROM_VEHICLE)
        assert np.allclose(world_from_base @ base_from_camera("00"), camera.reshape(4, 4), atol=1e-5)


def test_without_another_mount_the_calibration_is_kitti360s(tmp_path: Path) -> None:
    street = make_street(4, StreetOptions(drive_m=5.0))
    write_kitti360(street, tmp_path / "a", 1, size=(176, 47), lidar=False, truth=False)
    written = np.array((tmp_path / "a/calibration/calib_cam_to_velo.txt").read_text().split(), float)
    assert np.allclose(written, np.array(CAM_TO_VELO.split(), float), atol=2e-6)
    assert not (tmp_path / "a/data_truth").exists() and not (tmp_path / "a/data_3d_raw").exists()


def test_folders_that_hold_something_are_kept(tmp_path: Path) -> None:
    street = make_street(4, StreetOptions(drive_m=5.0))
    out = tmp_path / "drive"
    small = {"size": (176, 47), "lidar": False}
    write_kitti360(street, out, 2, **small)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="is not empty"):
        write_kitti360(street, out, 1, **small)  # type: ignore[arg-type]
    write_kitti360(street, out, 1, force=True, **small)  # type: ignore[arg-type]
    assert len(list(out.rglob("data_rect/*.png"))) == 1
    (out / MARKER).unlink()
    with pytest.raises(FileExistsError, match="kyn synth did not write"):
        write_kitti360(street, out, 1, force=True, **small)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames: got 0 to 98, but the drive of seed 4 has frames 0 to"):
        write_kitti360(street, tmp_path / "b", 99)
    assert not list((tmp_path / "b").rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a folder to write"),
        (["OUT", "--frames", "0"], "--frames: got 0, expected at least 1"),
        (["OUT", "--frames", "100000"], "--frames: got 100000, expected at most"),
        (["OUT", "--seed", "-1"], "--seed: got -1"),
        (["OUT", "--drives", "0"], "--drives: got 0"),
        (["OUT", "--width", "2"], "--width, --height: got 2x376"),
        (["OUT", "--cameras", "00,07"], "camera: got '07', expected 00, 01, left or right"),
        (["FULL"], "is not empty; name another folder"),
        (["FULL", "--force"], "files that kyn synth did not write"),
        (["FULL/file"], "is a file, expected a folder"),
        (["--contact-sheet", "OUT.txt"], "expected a name that ends in .png, .jpg or .jpeg"),
        (["--contact-sheet", "OUT/sheet.png"], "does not exist; make it first"),
        (["OUT", "--style", "alley"], "invalid choice"),
    ],
)
def test_wrong_arguments_get_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    words = [w.replace("OUT", str(tmp_path / "out")).replace("FULL", str(tmp_path / "full")) for w in arguments]
    try:
        code: object = main(["synth", *words])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error and len(error.splitlines()) <= 3
    assert (tmp_path / "full" / "file").read_text() == "kept" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("own", [True, False])
def test_an_interrupted_drive_is_removed_and_that_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    own: bool,
) -> None:
    out = tmp_path / "d"
    if own:
        out.mkdir()
    monkeypatch.setattr(street_writer, "_write_scan", lambda *_: os.kill(os.getpid(), number))
    assert main(["synth", str(out), "--frames", "2", "--width", "176", "--height", "47"]) == 130
    assert f"{out}: not finished, what was written of it is removed" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [out] * own


def test_command_writes_drives_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "176", "--height", "47", "--seed", "9"]
    assert main(["synth", str(tmp_path / "d"), "--frames", "2", "--drives", "2", "--no-lidar", *small]) == 0
    assert "2 drives of 2 frames" in capsys.readouterr().out
    images = sorted(p.read_bytes() for p in (tmp_path / "d" / "data_2d_raw").rglob("*.png"))
    assert len(images) == len(set(images)) == 4
    assert main(["synth", "--contact-sheet", str(tmp_path / "sheet.jpg"), "--seeds", "2"]) == 0
    assert cv2.imread(str(tmp_path / "sheet.jpg")).shape == (196, 2 * 644, 3)
