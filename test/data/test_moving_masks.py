"""What moves around a frame, against the authors' rule in plain numpy: masks grow, five in turn vote."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.kitti_odometry_drive import OdometryDrive
from kyn_models.data.kitti_odometry_frames import KittiOdometryFrames, OdometryFramesOptions
from kyn_models.data.moving_masks import MaskOptions, MovingMasks
from kyn_models.types import Intrinsics

BOXES = {167: (10, 20, 30, 50), 168: (100, 130, 200, 260), 169: (105, 140, 220, 280), 171: (230, 256, 480, 512)}
"""Rows and columns of what moves, by frame; 170 has no mask."""


@pytest.fixture
def drive(shared_data: Path, tmp_path: Path) -> OdometryDrive:
    folder = shutil.copytree(shared_data / "kitti_odometry", tmp_path / "odometry", copy_function=shutil.copyfile)
    masks = folder / "sequences" / "07" / "mvobj_mask"
    masks.mkdir()
    for frame, (top, bottom, left, right) in BOXES.items():
        mask = np.zeros((256, 512), dtype=np.float32)
        mask[top:bottom, left:right] = 1
        np.save(masks / f"{frame:06d}.npy", mask)
    return OdometryDrive(folder)


def crop_camera(drive: OdometryDrive) -> Intrinsics:
    """Centre-correct camera of the published crop at 256x512."""
    published = (
        KittiOdometryFrames(drive.root, OdometryFramesOptions(offsets=())).observation(drive, 169).key.intrinsics
    )
    scale = 512 / 752 if drive.intrinsics().height == 376 else 512 / (2 * drive.intrinsics().height)
    cx, cy = ((c + (scale - 1) / 2) for c in (published.cx, published.cy))
    return Intrinsics(published.fx, published.fy, cx, cy, 512, 256)


def by_hand(frame: int, options: MaskOptions) -> np.ndarray:
    """The authors' rule: a pixel stays if more than frames - hits masks, grown by a square, keep it."""
    kept = 0
    for near in range(frame - options.frames // 2, frame + options.frames // 2 + 1):
        stays = np.ones((256, 512), dtype=int)
        if near in BOXES:
            top, bottom, left, right = BOXES[near]
            grow = options.grow_px
            stays[max(top - grow, 0) : bottom + grow, max(left - grow, 0) : right + grow] = 0
        kept = kept + stays
    return ~(kept > options.frames - options.hits)


@pytest.mark.parametrize("frame", [169, 173])
@pytest.mark.parametrize(
    "options", [MaskOptions(), MaskOptions(0, 1, 1), MaskOptions(4, 3, 2), MaskOptions(16, 5, 2)], ids=str
)
def test_five_masks_vote_as_published(drive: OdometryDrive, options: MaskOptions, frame: int) -> None:
    found, wanted = MovingMasks(drive, options)(frame, crop_camera(drive)), by_hand(frame, options)
    assert wanted.any() == (frame == 169 or (options.frames, options.hits) == (5, 1))
    np.testing.assert_array_equal(found, wanted)


def test_other_cameras_see_the_same_places(drive: OdometryDrive) -> None:
    """The whole image has the mask where the crop lies in it, and nothing beside it."""
    whole = drive.intrinsics()
    found = MovingMasks(drive, MaskOptions(0, 1, 1))(169, whole)
    scale = whole.height / 256
    left_edge = (whole.width - 2 * whole.height) / 2
    rows, columns = np.nonzero(found)
    top, bottom, left, right = BOXES[169]
    assert (rows.min(), rows.max() + 1) == pytest.approx((top * scale, bottom * scale), abs=1)
    assert (columns.min(), columns.max() + 1) == pytest.approx(
        (left_edge + left * scale, left_edge + right * scale), abs=1
    )


def test_a_pixel_has_the_mask_that_its_centre_lies_in(drive: OdometryDrive) -> None:
    """Crop and whole image have their edges in common, so pixels of different size have their centres apart."""
    mask = np.zeros((256, 512), dtype=np.float32)
    mask[::3, :] = mask[:, 1::5] = 1
    np.save(drive.folder / "mvobj_mask" / "000169.npy", mask)
    whole = drive.intrinsics()
    found = MovingMasks(drive, MaskOptions(0, 1, 1))(169, whole)
    left = (whole.width - 2 * whole.height) // 2
    rows, columns = (((np.arange(count) + 0.5) * 256 / whole.height) for count in (whole.height, 2 * whole.height))
    wanted = mask[np.ix_(rows.astype(int), columns.astype(int))] == 1
    # Centres on the edge between two pixels of the mask belong to either.
    sure = (rows % 1 > 1e-6)[:, None] & (columns % 1 > 1e-6)
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(found[:, left : left + 2 * whole.height][sure], wanted[sure])


def test_which_frames_have_masks(drive: OdometryDrive) -> None:
    masks = MovingMasks(drive, MaskOptions())
    assert [frame for frame in range(166, 173) if masks.has_mask(frame)] == sorted(BOXES)


def test_faults_are_named(drive: OdometryDrive, shared_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mvobj_mask: missing or empty, expected <6 digits>\.npy"):
        MovingMasks(OdometryDrive(shared_data / "kitti_odometry"), MaskOptions())
    for options, words in {
        (-1, 5, 1): "mask-grow: got -1",
        (16, 4, 1): "mask-frames: got 4, expected an odd number",
        (16, 5, 6): "mask-hits: got 6, expected 1 to 5",
        (16, 5, 0): "mask-hits: got 0",
    }.items():
        with pytest.raises(ValueError, match=words):
            MaskOptions(*options)
