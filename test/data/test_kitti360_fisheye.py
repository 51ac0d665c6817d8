"""Prepared images of a synthetic drive with fisheye cameras: the same world through all four, by files alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models.data.kitti360 import Kitti360, open_split
from kyn_models.data.kitti360_cameras import (
    FISHEYES,
    PUBLISHED_VIEWS,
    mirrored,
    prepared_intrinsics,
    raw_from_rectified,
    rectified_intrinsics,
)
from kyn_models.data.kitti360_prepare import PrepareOptions, plan, prepare
from kyn_models.data.mei_camera import read_mei, rectifying_map
from kyn_models.data.street_sensors import CAM_TO_POSE, INTRINSICS, base_from_camera
from kyn_models.data.street_sensors import FISHEYES as LENSES
from kyn_models.data.street_writer import write_kitti360
from kyn_models.data.streets import FRAME_S, Street, StreetOptions, make_street
from kyn_models.types import PosedFrame

SIZE = (48, 160)
LATER = 8
VIEWS = (("01", 0), ("02", LATER), ("03", LATER))
FLAT = (0, 0)
"""The other rotation of the prepared fisheye images: none."""


@dataclass(frozen=True)
class Drive:
    root: Path
    street: Street


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """A drive of two frames at a quarter of KITTI-360's size with prepared images; its lenses darken no corner."""
    root = tmp_path_factory.mktemp("fisheye") / "drive"
    street = make_street(13, StreetOptions(drive_m=20.0))
    look = street.look.copy()
    look[6:8] = 0.0  # vignette and noise differ between two pictures of one place
    street = replace(street, look=look)
    write_kitti360(street, root, [0, LATER], cameras=("00", "01", "02", "03"), size=(352, 94), truth=False)
    options = PrepareOptions(size=SIZE, rotations=((0, -15), FLAT))
    assert prepare(plan(root, root, options), workers=1).written == 8
    return Drive(root, street)


def shot(drive: Drive, camera: str, rotation: tuple[float, float] = (0, -15)) -> PosedFrame:
    return Kitti360(drive.root, camera=camera, prepared=SIZE, rotation=rotation).posed_frame(LATER)


def difference(drive: Drive, frame: PosedFrame, pose: np.ndarray) -> float:
    """Mean absolute difference in grey levels to a pinhole picture from ``pose``, both a little blurred.

    At this size textures alias differently in the two pictures, which says nothing about where things are.
    """
    rendered = drive.street.at(LATER * FRAME_S).render(frame.intrinsics, pose, supersample=True)
    blurred = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in (rendered.image, frame.image)]
    return float(np.abs(blurred[0] - blurred[1]).mean())


@pytest.mark.parametrize("camera", FISHEYES)
@pytest.mark.parametrize("rotation", [(0, -15), FLAT])
def test_rectified_fisheye_image_is_the_picture_of_a_pinhole(
    drive: Drive, camera: str, rotation: tuple[float, float]
) -> None:
    frame = shot(drive, camera, rotation)
    assert frame.image.shape == (*SIZE, 3) and frame.world_from_camera is not None
    right = difference(drive, frame, frame.world_from_camera)
    assert right < 5.0
    for axis in range(3):
        turned = frame.world_from_camera.copy()
        turned[:3, :3] @= cv2.Rodrigues(np.radians(1.0) * np.eye(3)[axis])[0]
        assert difference(drive, frame, turned) > 2.0 * right
    moved = frame.world_from_camera.copy()
    moved[:3, 3] += 0.3 * moved[:3, 0]
    assert difference(drive, frame, moved) > 2.0 * right


@pytest.mark.parametrize("camera", FISHEYES)
def test_the_renderer_and_the_camera_have_the_same_rays(drive: Drive, camera: str) -> None:
    lens, scene = LENSES[camera].resized(140, 140), drive.street.at(0.0)
    pose = drive.street.world_from_base(0.0) @ base_from_camera(camera)
    picture = scene.render(lens, pose, smooth=False, max_range_m=500.0)
    v, u = np.mgrid[:140, :140]
    rays, seen = lens.unproject(np.stack([u, v], axis=-1))
    seen &= np.nan_to_num(rays[..., 2], nan=-1.0) > 0
    distance = scene.distance(pose[:3, 3], rays[seen] @ pose[:3, :3].T, max_range_m=500.0)
    np.testing.assert_allclose(picture.depth_m[seen], distance, rtol=1e-5)
    assert np.isfinite(distance).mean() > 0.5
    assert np.isinf(picture.depth_m[~seen]).all() and picture.image[~seen].max() == 0


def colours(frame: PosedFrame, drive: Drive, frame_number: int, points: np.ndarray) -> np.ndarray:
    """(N, 3) colours that a camera sees of world points; NaN outside its image and where something is in between."""
    assert frame.world_from_camera is not None
    camera, k = np.linalg.inv(frame.world_from_camera), frame.intrinsics
    x, y, z = camera[:3, :3] @ points.T + camera[:3, 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = k.fx * x / z + k.cx, k.fy * y / z + k.cy
    centre = frame.world_from_camera[:3, 3]
    near = points + 0.03 * (centre - points) / np.linalg.norm(centre - points, axis=1, keepdims=True)
    seen = drive.street.at(frame_number * FRAME_S).line_of_sight(centre[None], near)[0]
    inside = (z > 2) & (u > 1) & (v > 1) & (u < k.width - 2) & (v < k.height - 2) & seen
    maps = [np.where(inside, a, 0).astype(np.float32)[None] for a in (u, v)]
    sampled = cv2.remap(frame.image.astype(np.float32), *maps, cv2.INTER_LINEAR)[0]
    return np.where(inside[:, None], sampled, np.nan)


def test_points_have_the_same_colour_in_all_four_cameras(drive: Drive) -> None:
    reader = Kitti360(drive.root, prepared=SIZE, views=VIEWS)
    assert reader.frames == (0,)
    sample = reader[0]
    shots = {"00": (sample.observation.key, 0)}
    shots |= {camera: (view, offset) for (camera, offset), view in zip(VIEWS, sample.views, strict=True)}
    scan, pose = reader.scan(LATER)[:, :3], reader.world_from_velo(LATER)
    points = (scan @ pose[:3, :3].T + pose[:3, 3])[::4].astype(np.float64)
    seen = colours(sample.observation.key, drive, 0, points)

    for camera, (frame, number) in shots.items():
        if camera == "00":
            continue

        def error(turn_deg: tuple[float, float], frame: PosedFrame = frame, number: int = number) -> np.ndarray:
            """Differences to camera 00 in grey levels, with a pose that is turned by degrees about x and y."""
            assert frame.world_from_camera is not None
            turned = frame.world_from_camera.copy()
            turned[:3, :3] @= cv2.Rodrigues(np.radians((*turn_deg, 0.0)))[0]
            other = colours(replace(frame, world_from_camera=turned), drive, number, points)
            return np.abs(other - seen).mean(axis=1)

        right, turned, unturned = error((0, 0)), error((0, 4)), error((15, 0))
        both = np.isfinite(right) & np.isfinite(turned)
        assert both.sum() > 1000 and right[both].mean() < 0.7 * turned[both].mean()
        both = np.isfinite(right) & np.isfinite(unturned)  # as if the rotation of the prepared image were forgotten
        assert both.sum() > 500 and np.median(right[both]) < 0.3 * np.median(unturned[both])


def test_fisheye_images_lie_where_the_official_ones_do(drive: Drive, tmp_path: Path) -> None:
    out = tmp_path / "drive"
    name = write_kitti360(drive.street, out, 1, cameras=("00", "03"), size=(176, 47), lidar=False)[0]
    image = out / "data_2d_raw" / name / "image_03" / "data_rgb" / "0000000000.png"
    depth = cv2.imread(str(out / "data_truth" / name / "03" / "depth" / image.name), cv2.IMREAD_UNCHANGED)
    assert cv2.imread(str(image)).shape == (175, 175, 3) and depth.shape == (175, 175)
    assert depth[87, 87] > 0 and depth[0, 0] == 0
    assert (image.parents[1] / "timestamps.txt").is_file() and not (out / "calibration" / "image_02.yaml").exists()
    lens, official = read_mei(out / "calibration" / "image_03.yaml"), LENSES["03"]
    assert (lens.width, lens.xi) == (175, official.xi) and lens.gamma1 == pytest.approx(official.gamma1 / 8)
    mounts = (out / "calibration" / "calib_cam_to_pose.txt").read_text()
    assert [line.split(":")[0] for line in mounts.splitlines()] == ["image_00", "image_01", "image_03"]
    written = np.array(mounts.splitlines()[2].split()[1:], float)
    np.testing.assert_allclose(written, np.array(CAM_TO_POSE["image_03"].split(), float), atol=1e-8)
    assert [line[:3] for line in (out / "data_truth" / "cameras.txt").read_text().splitlines()] == ["00:"]


def test_another_rotation_is_another_camera_and_folder(drive: Drive) -> None:
    down, flat = (Kitti360(drive.root, camera="02", prepared=SIZE, rotation=turn) for turn in ((0, -15), FLAT))
    assert down.image_path(0).parent.name == "data_48x160_0x-15" and flat.image_path(0).parent.name == "data_48x160_0x0"
    axis, level = down.base_from_camera()[:3, 2], flat.base_from_camera()[:3, 2]
    assert np.degrees(np.arccos(axis @ level)) == pytest.approx(15.0, abs=1e-4)
    assert axis[1] > 0.9 and axis[2] < level[2] - 0.2  # to the left, and down
    right = Kitti360(drive.root, camera="03", prepared=SIZE)
    assert right.base_from_camera()[:3, 2] @ (0, -1, 0) > 0.9
    assert difference(drive, flat.posed_frame(LATER), down.posed_frame(LATER).world_from_camera) > 20


def test_normalised_cameras_are_the_published_ones() -> None:
    """Numbers of the papers' reader for KITTI-360's calibration, for all four cameras; and what the images have."""
    published = [[0.784878194, 0, -0.031179786], [0, 2.939118385, 0.270050764], [0, 0, 1]]
    np.testing.assert_allclose(INTRINSICS.normalised(), published, atol=1e-6)
    rectified = rectified_intrinsics(INTRINSICS, (192, 640))
    # Pixel 0 is at -1, the last one at 1.
    for k, c, size, row in ((rectified.fx, rectified.cx, 640, 0), (rectified.fy, rectified.cy, 192, 1)):
        assert 2 * k / (size - 1) == pytest.approx(published[row][row], abs=1e-6)
        assert 2 * c / (size - 1) - 1 == pytest.approx(published[row][2], abs=1e-6)
    assert prepared_intrinsics("01", INTRINSICS, (192, 640)) == INTRINSICS.resized(640, 192)


def published_positions(camera: str, tangential: bool) -> np.ndarray:
    """Where the papers' preprocessing samples the fisheye image, from its formula; it leaves p1 and p2 out."""
    y, x = np.meshgrid(np.linspace(-1, 1, 192), np.linspace(-1, 1, 640), indexing="ij")
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(INTRINSICS.normalised()).T
    down = np.radians(-15)
    rays @= np.array([[1, 0, 0], [0, np.cos(down), -np.sin(down)], [0, np.sin(down), np.cos(down)]]).T
    lens = LENSES[camera] if tangential else replace(LENSES[camera], p1=0.0, p2=0.0)
    return lens.project(rays)[0] * (1399 / 1400)


@pytest.mark.parametrize("camera", FISHEYES)
def test_rectification_is_the_published_one_to_a_source_pixel(camera: str) -> None:
    turn = raw_from_rectified(camera, (0, -15))
    ours = rectifying_map(LENSES[camera], rectified_intrinsics(INTRINSICS, (192, 640)), turn)
    np.testing.assert_allclose(ours * (1399 / 1400), published_positions(camera, True), atol=1e-3)
    away = np.abs(ours - published_positions(camera, False))
    assert away.mean() < 0.6 and away.max() < 1.0


def test_yaw_is_mirrored_for_the_right_camera() -> None:
    for camera, side in (("02", 1), ("03", -1)):
        ahead = raw_from_rectified(camera, (30, -10)) @ (0, 0, 1)
        assert ahead[0] * side > 0.45 and ahead[1] > 0.17
    np.testing.assert_allclose(raw_from_rectified("02", FLAT), np.eye(3), atol=1e-15)


def test_fisheye_cameras_need_prepared_images(drive: Drive, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="camera: got '02', expected one of 00, 01; fisheye.*kyn prepare kitti360"):
        Kitti360(drive.root, camera="02")
    with pytest.raises(FileNotFoundError, match=r"data_50x60: missing, expected the prepared.*kyn prepare kitti360"):
        Kitti360(drive.root, prepared=(50, 60))
    copy = tmp_path / "copy"
    shutil.copytree(drive.root, copy)
    mounts = copy / "calibration" / "calib_cam_to_pose.txt"
    mounts.write_text("".join(line for line in mounts.read_text().splitlines(True) if "image_02" not in line))
    with pytest.raises(ValueError, match=r"calib_cam_to_pose\.txt: got no entry 'image_02'"):
        Kitti360(copy, camera="02", prepared=SIZE)


def gappy(tmp_path: Path) -> Path:
    """Frames 5, 6, 7, 11, 12 with images and poses: the car stood at 8, 9, 10."""
    root = tiny.write_drive(tmp_path / "kitti360", frames=range(5, 13), cameras=("00", "01"))
    poses = root / "data_poses" / tiny.DRIVE / "poses.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join(line for line in lines if line.split()[0] not in ("8", "9", "10")) + "\n")
    return root


def test_offsets_in_posed_frames_go_over_gaps_and_stop_at_the_ends(tmp_path: Path) -> None:
    root = gappy(tmp_path)
    assert Kitti360(root, views=(("00", 1),)).frames == (5, 6, 11)
    reader = Kitti360(root, views=(("00", 1), ("01", 3), ("00", -4)), steps="pose")
    assert reader.frames == (5, 6, 7, 11, 12)
    views = reader.sample(7).views
    assert [round(view.world_from_camera[0, 3]) for view in views] == [12, 13, 6]  # frame + 1 m to the camera
    with pytest.raises(ValueError, match="steps: got 'second', expected one of frame, pose"):
        Kitti360(root, steps="second")


def test_split_lines_without_their_frames_are_counted_or_refused(tmp_path: Path) -> None:
    root, split = gappy(tmp_path), tmp_path / "split.txt"
    names = [(tiny.DRIVE, 5, "l"), (tiny.DRIVE, 9, "l"), (tiny.DRIVE, 77, "l"), (tiny.DRIVE, 7, "l")]
    names += [(tiny.DRIVE, 6, "r"), ("2000_01_01_drive_0009_sync", 5, "l")]
    split.write_text("".join(f"{drive} {frame:010d} {side}\n" for drive, frame, side in names))
    (root / "data_2d_raw" / tiny.DRIVE / "image_01" / "data_rect" / "0000000011.png").unlink()
    with pytest.raises(ValueError, match="line 2: names frame 9 of .*, which has no pose"):
        Kitti360(root, tiny.DRIVE, split=split)
    views = (("01", 1),)
    left, right, absent = open_split(root, split, views, steps="pose", strict=False)
    assert (left.frames, right.frames, absent.frames) == ((5,), (6,), ())
    assert [text.split(":")[0][-6:] for text in left.missing] == ["line 2", "line 3", "line 4"]
    assert "77" in left.missing[1] and left.missing[1].endswith("0000000077.png is missing")
    assert "names frame 7 of" in left.missing[2] and "with the view (01, 11)" in left.missing[2]
    assert len(absent) == 0 and len(absent.missing) == 1 and "drive_0009_sync" in absent.missing[0]
    assert right.views == (("00", 1),) and left.views == views


def test_published_views_are_mirrored_for_the_right_camera() -> None:
    assert mirrored(PUBLISHED_VIEWS)[:2] == (("01", 1), ("00", 0))
    assert mirrored(mirrored(PUBLISHED_VIEWS)) == PUBLISHED_VIEWS
