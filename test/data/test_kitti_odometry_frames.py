"""Key frames with neighbours from KITTI odometry: the published crop, truth, masks and which frames are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.kitti_odometry_frames import KittiOdometryFrames, OdometryFramesOptions
from kyn_models.data.published_crop import PublishedCrop
from kyn_models.types import Intrinsics


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of the real sequence that may be changed."""
    return Path(shutil.copytree(shared_data / "kitti_odometry", tmp_path / "odometry", copy_function=shutil.copyfile))


def test_item_is_what_the_authors_reader_gives(shared_data: Path, golden: Path) -> None:
    """Images, cameras, relative poses and depth truth of their reader for the same files."""
    case = np.load(golden / "dymultidepth" / "case0_resnet18.npz")
    frames = KittiOdometryFrames(shared_data / "kitti_odometry")
    assert [frame for _, frame in frames.items] == [169]
    assert (frames.left_out.without_neighbour, frames.left_out.masked, frames.left_out.at_ends) == (2, 0, 0)
    sample = frames[0]
    key, *neighbours = sample.observation.frames
    for frame, image in zip(sample.observation.frames, [case["keyframe"], *case["frames"]], strict=True):
        difference = np.abs(frame.image.astype(int) - image)
        assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3
        np.testing.assert_allclose(frame.intrinsics.matrix, case["intrinsics"][:3, :3], atol=1e-4)
    for frame, pose in zip(neighbours, case["poses"].astype(np.float64), strict=True):
        wanted = np.linalg.inv(pose) @ case["keyframe_pose"].astype(np.float64)
        np.testing.assert_allclose(np.linalg.inv(frame.world_from_camera) @ key.world_from_camera, wanted, atol=2e-5)
    truth = np.where(case["lidar_inverse_depth"] > 0, 1 / np.maximum(case["lidar_inverse_depth"], 1e-9), np.nan)
    np.testing.assert_allclose(sample.depth_m, truth, rtol=1e-6)
    assert sample.name == "07_0000000169" and sample.moving is None


def test_crop_of_an_odd_rest_gives_the_pixel_to_the_image_and_not_to_the_camera() -> None:
    crop = PublishedCrop(Intrinsics(718.0, 718.0, 607.0, 185.0, 1241, 376))
    assert crop.box == (244, 0, 997, 376)
    assert crop.intrinsics.fx == pytest.approx(718 * 512 / 752) == crop.intrinsics.fy
    assert crop.intrinsics.cx == pytest.approx((607 - 244.5) * 512 / 752)
    tall = PublishedCrop(Intrinsics(100.0, 100.0, 50.0, 60.0, 100, 120), (64, 128))
    assert tall.box == (0, 35, 100, 85)
    assert tall.intrinsics.cy == pytest.approx((60 - 35) * 1.28)


def test_crop_keeps_flat_colours_and_the_last_depth_of_a_pixel() -> None:
    crop = PublishedCrop(Intrinsics(50.0, 50.0, 20.0, 10.0, 40, 20), (10, 20))
    image = np.full((20, 40, 3), 77, dtype=np.uint8)
    assert (crop.image(image) == 77).all()
    depth = np.full((20, 40), np.nan, dtype=np.float32)
    depth[0, 0], depth[1, 0] = 5.0, 6.0  # row 0.5 of the target goes to row 0
    found = crop.depth(depth)
    assert found[0, 0] == 6.0 and np.isnan(found).sum() == found.size - 1


def test_stereo_partner_and_other_offsets(shared_data: Path) -> None:
    options = OdometryFramesOptions(offsets=(-1,), stereo=True, poses="kitti", size=(64, 128))
    frames = KittiOdometryFrames(shared_data / "kitti_odometry", options)
    assert [frame for _, frame in frames.items] == [169, 170]
    key, before, right = frames[1].observation.frames
    assert key.image.shape == (64, 128, 3)
    assert before.stamp_ns < key.stamp_ns == right.stamp_ns
    assert np.linalg.inv(key.world_from_camera) @ right.world_from_camera == pytest.approx(
        np.array([[1, 0, 0, 0.535], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), abs=0.005
    )


@pytest.mark.parametrize(
    ("frame_count", "dilation", "offset_d"), [(2, 1, 0), (2, 2, 0), (4, 1, 0), (3, 1, 0), (1, 1, 0), (2, 1, -2)]
)
def test_offsets_say_what_the_authors_three_numbers_say(
    folder: Path, frame_count: int, dilation: int, offset_d: int
) -> None:
    for frame in range(160, 180):
        if not (path := folder / "sequences" / "07" / "image_2" / f"{frame:06d}.png").exists():
            shutil.copyfile(path.with_name("000169.png"), path)
    steps = range(-(frame_count // 2) * dilation, (frame_count + 1) // 2 * dilation + 1, dilation)
    offsets = tuple(step + offset_d for step in steps if step != 0)
    frames = KittiOdometryFrames(folder, OdometryFramesOptions(offsets=offsets))
    sample = frames[[frame for _, frame in frames.items].index(169)]
    times = np.loadtxt(folder / "sequences" / "07" / "times.txt")
    found = [(frame.stamp_ns - sample.observation.key.stamp_ns) / 1e9 for frame in sample.observation.frames[1:]]
    assert found == pytest.approx([times[169 + offset] - times[169] for offset in offsets], abs=1e-6)


def test_masks_of_moving_objects_and_of_used_frames(folder: Path) -> None:
    sequence = folder / "sequences" / "07"
    (sequence / "mvobj_mask").mkdir()
    mask = np.zeros((1, 256, 512), dtype=np.float64)
    mask[:, 100:120, 200:240] = 1
    np.save(sequence / "mvobj_mask" / "000169.npy", mask)
    (sequence / "train.json").write_text(json.dumps({"168": True, "169": True, "170": False}))
    options = OdometryFramesOptions(offsets=(), index_masks=("train",), size=(128, 256))
    frames = KittiOdometryFrames(folder, options)
    assert [frame for _, frame in frames.items] == [168, 169] and frames.left_out.masked == 1
    assert frames[0].moving is None
    moving = frames[1].moving
    assert moving is not None and moving.shape == (128, 256) and moving.sum() == 200 and moving[50:60, 100:120].all()


@pytest.mark.parametrize("size", [(96, 320), (48, 128), (64, 96)])
def test_images_of_any_shape_have_the_masks_of_what_they_show(folder: Path, size: tuple[int, int]) -> None:
    """What stands in the whole image, as the crop of the masks has it, reaches the crop of these images."""
    source = KittiOdometryFrames(folder).drives[0].intrinsics()
    whole = np.zeros((source.height, source.width), dtype=bool)
    whole[60:150, 300:420] = whole[170:305, 501:703] = whole[211:332, 830:1000] = True
    whole[:, :200] = True  # the crop of the masks is twice as wide as high and does not show this
    masks = folder / "sequences" / "07" / "mvobj_mask"
    masks.mkdir()
    np.save(masks / "000169.npy", PublishedCrop(source).mask(whole).astype(np.float32))
    moving = KittiOdometryFrames(folder, OdometryFramesOptions(size=size))[0].moving
    whole[:, :200] = False
    wanted = PublishedCrop(source, size).mask(whole)
    assert moving is not None and moving.shape == size and wanted.mean() > 0.1
    # Both are of the nearest pixel, once and twice: they may differ along some edges.
    assert (moving != wanted).mean() < 0.01


def test_published_margin_leaves_out_both_ends(folder: Path) -> None:
    pose_file = folder / "poses_dvso" / "07.txt"
    pose_file.write_text("".join(line + "\n" for line in pose_file.read_text().splitlines()[:174]))
    frames = KittiOdometryFrames(folder, OdometryFramesOptions(offsets=()))
    assert [frame for _, frame in frames.items] == [168] and frames.left_out.at_ends == 2
    assert len(KittiOdometryFrames(folder, OdometryFramesOptions(offsets=(), margin=0))) == 3


def test_faults_are_named(folder: Path) -> None:
    sequence = folder / "sequences" / "07"
    with pytest.raises(FileNotFoundError, match=r"no sequence 04.*there are 07"):
        KittiOdometryFrames(folder, OdometryFramesOptions(("04", "07")))
    with pytest.raises(FileNotFoundError, match=r"train\.json: missing"):
        KittiOdometryFrames(folder, OdometryFramesOptions(index_masks=("train",)))
    (sequence / "train.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"train\.json: got no index mask"):
        KittiOdometryFrames(folder, OdometryFramesOptions(index_masks=("train",)))
    with pytest.raises(ValueError, match=r"offsets: got \(0, 1\)"):
        OdometryFramesOptions(offsets=(0, 1))
    with pytest.raises(ValueError, match="no frame with depth truth that is used and has neighbours"):
        KittiOdometryFrames(folder, OdometryFramesOptions(offsets=(-30,)))
    (sequence / "mvobj_mask").mkdir()
    np.save(sequence / "mvobj_mask" / "000169.npy", np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"000169\.npy: got shape \(4, 5\), expected \(256, 512\)"):
        KittiOdometryFrames(folder)[0]
    (sequence / "mvobj_mask" / "000169.npy").write_bytes(b"not numbers")
    with pytest.raises(ValueError, match=r"000169\.npy: cannot be read as numbers"):
        KittiOdometryFrames(folder)[0]
