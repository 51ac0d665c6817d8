"""Training data by configuration: which views an item has, which split lines are left out, what is said about them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_drive import DRIVE, RIGHT_M, WIDTH, image, write_drive
from tiny_raw import DRIVE as RAW_DRIVE
from tiny_raw import RIGHT_M as RAW_RIGHT_M
from tiny_raw import STEP_M as RAW_STEP_M
from tiny_raw import write_raw, write_slam
from tiny_realestate import SHARES, STEP, write_prepared

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.sources import DataConfig, Frames
from kyn_models.data.streets import StreetsOptions

FRAMES = (5, 6, 8, 9)
"""The car stands at frame 7: it has no pose."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive"), FRAMES, cameras=("00", "01"))


def config(root: Path, **options) -> DataConfig:
    return DataConfig("kitti360", str(root), size=(64, 96), **options)


def shifts(frames: Frames, index: int) -> list[tuple[float, float]]:
    """(forward, right) metres of every view's camera from the key frame's."""
    sample = frames[index]
    key = np.linalg.inv(sample.observation.key.world_from_camera)
    moved = [key @ view.world_from_camera for view in sample.views]
    return [(round(pose[2, 3], 6), round(pose[0, 3], 6)) for pose in moved]


def test_views_come_camera_by_camera_and_steps_count_frames_with_a_pose(root):
    frames = Frames(config(root, steps=(0, 1)))
    assert len(frames) == 2 * len(FRAMES) and frames.name(1) == f"{DRIVE}_0000000006_00"
    assert shifts(frames, 1) == [(2.0, 0.0), (0.0, RIGHT_M), (2.0, RIGHT_M)]
    np.testing.assert_array_equal(frames[1].observation.key.image, image(6))
    np.testing.assert_array_equal(frames[1].views[0].image, image(8))
    assert frames[1].observation.base_from_camera[2, 3] == pytest.approx(1.58)


def test_steps_end_at_the_first_and_last_frame_as_published(root):
    frames = Frames(config(root, steps=(0, -1, 1), stereo=False))
    assert len(frames) == len(FRAMES)
    assert shifts(frames, 0) == [(0.0, 0.0), (1.0, 0.0)] and shifts(frames, 3) == [(-1.0, 0.0), (0.0, 0.0)]


def test_every_dilation_is_an_item_of_its_own(root):
    frames = Frames(config(root, steps=(0, 1), stereo=False, dilations=(1, 3)))
    assert len(frames) == 3 * len(FRAMES)
    assert [shifts(frames, index) for index in range(3)] == [[(1.0, 0.0)], [(3.0, 0.0)], [(4.0, 0.0)]]


def test_a_frame_is_whole_if_it_is_at_every_dilation(tmp_path):
    root = write_drive(tmp_path, FRAMES)
    # Only between the least and the most dilation frame 5 is seen beside frame 8; its own image is all that 9 needs.
    (root / "data_2d_raw" / DRIVE / "image_00" / "data_rect" / "0000000008.png").unlink()
    frames = Frames(config(root, steps=(0, 1), stereo=False, dilations=(1, 3)))
    assert [frames.name(index)[-5:-3] for index in range(0, len(frames), 3)] == ["09"]


def test_a_split_gives_frames_and_sides_in_its_order(root, tmp_path):
    split = tmp_path / "train_files.txt"
    split.write_text(f"{DRIVE} 0000000008 r\n{DRIVE} 5 l\n")
    frames = Frames(config(root, split=str(split), depth=True))
    assert [frames.name(index) for index in range(2)] == [f"{DRIVE}_0000000008_01", f"{DRIVE}_0000000005_00"]
    assert shifts(frames, 0) == [(1.0, 0.0), (0.0, -RIGHT_M), (1.0, -RIGHT_M)]
    depth = frames[0].depth_m
    assert depth.shape == (24, 64) and np.nanmax(depth) == pytest.approx(19.2, abs=0.01)
    assert frames.missing == () and len(Frames(config(root, split=str(split), limit=1))) == 1


def test_lines_that_name_what_is_missing_are_counted_reported_or_an_error(root, tmp_path, caplog):
    split = tmp_path / "train_files.txt"
    split.write_text(f"{DRIVE} 5 l\n{DRIVE} 7 l\n{DRIVE} 11 l\nother_drive 5 r\n")
    frames = Frames(config(root, split=str(split)))
    assert len(frames) == 1 and len(frames.missing) == 3
    assert "3 of 4 lines left out, the first:" in caplog.text
    assert frames.missing[0].endswith(f"line 2: names frame 7 of {DRIVE}, which has no pose")
    assert "a drive that is not there" in frames.missing[2]
    with pytest.raises(FileNotFoundError, match=r"line 2: names frame 7 .*no pose; strict: false leaves"):
        Frames(config(root, split=str(split), strict=True))
    split.write_text(f"{DRIVE} 7 l\nother_drive 5 r\n")
    with pytest.raises(ValueError, match=r"line 1: names frame 7 .*split"):
        Frames(config(root, split=str(split)))


def test_an_image_that_is_missing_is_named(tmp_path):
    root = write_drive(tmp_path / "drive", FRAMES, cameras=("00", "01"))
    (root / "data_2d_raw" / DRIVE / "image_01" / "data_rect" / "0000000008.png").unlink()
    split = tmp_path / "train_files.txt"
    split.write_text(f"{DRIVE} 5 l\n{DRIVE} 6 l\n")
    frames = Frames(config(root, split=str(split)))
    assert [sentence.split("lines, ")[-1] for sentence in frames.missing] == [
        f"{split}, line 2: names frame 6 of {DRIVE}, of whose views the image of camera 01 at frame 8 is missing"
    ]
    assert len(Frames(config(root))) == 4


def test_prepared_images_come_with_fisheye_views_and_the_published_camera(tmp_path):
    root = write_drive(tmp_path / "drive", FRAMES, cameras=("00", "01"))
    add_prepared(root)
    frames = Frames(config(root, prepared=True, fisheye=True, fisheye_offset=2))
    views = frames.views(0)
    assert views.images.shape == (8, 64, 96, 3)
    # The normalised camera is that of the images before they were made small, for every view.
    expected = Kitti360(root).intrinsics().normalised()
    assert np.allclose(views.k_norm, expected, atol=1e-6) and frames.source(0).width == WIDTH
    assert views.images[4:, 0, 0, 0].tolist() == [28, 29, 38, 39]


def add_prepared(root: Path) -> None:
    """Images of one grey per camera and frame, as `kyn prepare kitti360` names them, and fisheye mounts."""
    folders = {"00": "data_64x96", "01": "data_64x96", "02": "data_64x96_0x-15", "03": "data_64x96_0x-15"}
    for camera, folder in folders.items():
        (root / "data_2d_raw" / DRIVE / f"image_{camera}" / folder).mkdir(parents=True)
        for frame in FRAMES:
            path = root / "data_2d_raw" / DRIVE / f"image_{camera}" / folder / f"{frame:010d}.png"
            cv2.imwrite(str(path), np.full((64, 96, 3), 10 * int(camera) + frame, np.uint8))
    with (root / "calibration" / "calib_cam_to_pose.txt").open("a") as stream:
        stream.write("image_02: 0 0 1 1 1 0 0 0 0 1 0 0\nimage_03: 0 0 1 1 1 0 0 0 0 1 0 0\n")


@pytest.mark.parametrize("slam", [True, False])
def test_kitti_raw_has_stereo_neighbours_and_poses(tmp_path, slam):
    root = write_raw(tmp_path / "raw")
    split = tmp_path / "train_files.txt"
    split.write_text(f"{RAW_DRIVE} 1 r\n{RAW_DRIVE} 2 l\n{RAW_DRIVE} 7 l\n")
    poses = str(write_slam(tmp_path / "poses")) if slam else ""
    frames = Frames(DataConfig("kitti_raw", str(root), str(split), (64, 96), poses=poses, depth=True))
    assert [frames.name(index) for index in range(2)] == [f"{RAW_DRIVE}_0000000001_03", f"{RAW_DRIVE}_0000000002_02"]
    assert len(frames.missing) == 1 and "names frame 7" in frames.missing[0]
    right, step = RAW_RIGHT_M, RAW_STEP_M
    np.testing.assert_allclose(shifts(frames, 0), [(step, 0), (0, -right), (step, -right)], atol=1e-4)
    np.testing.assert_allclose(shifts(frames, 1), [(0, 0), (0, right), (0, right)], atol=1e-4)
    assert np.nanmin(frames[1].depth_m) == pytest.approx(8.0)
    assert frames.views(0).images.shape == (4, 64, 96, 3)


def test_realestate10k_has_neighbours_at_every_dilation(tmp_path):
    root = write_prepared(tmp_path / "re10k", "0a1b", count=6)
    split = tmp_path / "val_files.txt"
    split.write_text("0a1b 2\n0a1b 9\nnone 0\n")
    options = {"size": (64, 96), "steps": (0, -1, 1), "stereo": False, "dilations": (1, 2)}
    assert len(Frames(DataConfig("realestate10k", str(root), **options))) == 12
    frames = Frames(DataConfig("realestate10k", str(root), str(split), **options))
    assert len(frames) == 2 and len(frames.missing) == 2 and frames.name(1) == "0a1b_0000000002_00"
    assert shifts(frames, 0) == [(-STEP, 0), (STEP, 0)] and shifts(frames, 1) == [(-2 * STEP, 0), (2 * STEP, 0)]
    np.testing.assert_allclose(frames.views(0).k_norm[:, 0, 2], 2 * SHARES[2] - 1, atol=1e-6)


def test_what_makes_no_sense_is_named(root):
    for options, said in (
        ({"steps": (1, 0)}, "data.steps: got"),
        ({"size": (60, 96)}, "data.size: got"),
        ({"dilations": (0, 1)}, "data.dilations: got"),
        ({"layout": "kitti_raw", "fisheye": True, "root": "x"}, "data.fisheye: got true for kitti_raw"),
        ({"layout": "kitti360", "root": ""}, "data.root: got none"),
        ({"limit": -1}, "data.limit: got -1, expected a number of items"),
        (
            {"poses": "x"},
            "data.poses: got settings that nothing reads for layout kitti360, expected none; leave data.po",
        ),
        ({"streets": StreetsOptions(streets=3)}, "data.streets: got settings that nothing reads for layout kitti360"),
        ({"layout": "streets"}, "data.root: got settings that nothing reads for layout streets"),
        ({"layout": "streets", "root": "", "split": "x"}, "data.split: got settings that nothing reads"),
    ):
        with pytest.raises(ValueError, match=said):
            DataConfig(**{"layout": "kitti360", "root": "x", **options})
    with pytest.raises(FileNotFoundError, match="no_folder: there is no such folder"):
        Frames(config(Path("no_folder")))
    with pytest.raises(IndexError, match="got item 8, expected 0 to 7"):
        Frames(config(root))[8]


def test_streets_have_the_views_that_are_asked_for():
    streets = StreetsOptions(streets=2, frames_per_street=2, first_seed=7)
    frames = Frames(DataConfig(size=(64, 96), fisheye=True, streets=streets))
    assert len(frames) == 4 and frames.name(3).startswith("street 8 frame ")
    views = frames._streets.options.views
    assert views[:4] == (("00", 1), ("01", 0), ("01", 1), ("left", 10)) and len(views) == 7
