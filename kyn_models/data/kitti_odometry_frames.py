"""KITTI odometry for depth of several frames: a key frame, its neighbours, annotated depth and what moves.

The layout is that of ``kitti_odometry_drive``, and beside its images

    sequences/<sequence>/image_depth_annotated/<frame>.png   depth truth (`kyn prepare kitti-odometry`)
    sequences/<sequence>/mvobj_mask/<frame>.npy              256x512 numbers, above 0.5 on moving objects (MonoRec)
    sequences/<sequence>/<index mask>.json                   {"<frame>": true or false}: which frames are used

Images are cropped and resized as published (``PublishedCrop``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import require_file, require_pixels
from kyn_models.data.kitti_odometry import annotated_frames, depth_path, read_annotated_depth
from kyn_models.data.kitti_odometry_drive import CAMERAS, OdometryDrive, Poses, sequences_of
from kyn_models.data.published_crop import PublishedCrop
from kyn_models.evaluate import sample_depth
from kyn_models.metrics import BoolArray
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Sample

TRAINING = ("01", "02", "06", "08", "09", "10")
"""Sequences that the published models are trained on."""
EVALUATION = ("00", "04", "05", "07")
"""Sequences that they are scored on."""
MASK_FOLDER = "mvobj_mask"
MASK_SIZE = (256, 512)
"""(rows, columns) of the masks of moving objects, which show the published crop."""


@dataclass(frozen=True)
class OdometryFramesOptions:
    """sequences: names, none for all of the folder that have depth truth. size: (rows, columns) of the images.

    offsets: neighbours, counted in frames from the key frame. stereo: the right image of the key frame is one more
    neighbour. poses: "kitti" or "dvso" (published). index_masks: names of json files of every sequence; a frame counts
    where all of them say so. margin: frames at both ends of a sequence that are no key frames, 5 as published.
    """

    sequences: tuple[str, ...] = ()
    size: tuple[int, int] = (256, 512)
    offsets: tuple[int, ...] = (-1, 1)
    stereo: bool = False
    poses: Poses = "dvso"
    index_masks: tuple[str, ...] = ()
    margin: int = 5

    def __post_init__(self) -> None:
        if 0 in self.offsets or len(set(self.offsets)) != len(self.offsets):
            raise ValueError(f"offsets: got {self.offsets}, expected different ones other than 0")
        if self.margin < 0:
            raise ValueError(f"margin: got {self.margin}, expected 0 or above")


@dataclass(frozen=True)
class LeftOut:
    """Annotated frames that are no items, by reason. without_neighbour: an image of a neighbour or its pose, or the
    stereo partner, is missing; masked: an index mask leaves them out; at_ends: within the margin."""

    without_neighbour: int = 0
    masked: int = 0
    at_ends: int = 0


class KittiOdometryFrames:
    """Items of all chosen sequences: ``len()`` and ``[i] -> Sample``.

    ``Sample.observation.frames`` are the key frame, its neighbours in the order of ``offsets`` and, with ``stereo``,
    its partner; ``depth_m`` is the annotated depth in the crop, NaN unknown; ``moving`` is None where there is no mask.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(self, root: str | Path, options: OdometryFramesOptions | None = None) -> None:
        self.options = options or OdometryFramesOptions()
        self.drives = [
            OdometryDrive(root, name, poses=self.options.poses) for name in _sequences(root, self.options.sequences)
        ]
        self.left_out = LeftOut()
        self.items: tuple[tuple[OdometryDrive, int], ...] = tuple(
            (drive, frame) for drive in self.drives for frame in self._frames(drive)
        )
        """(sequence, frame number) of every item."""
        if not self.items:
            raise ValueError(
                f"{root}: got no frame with depth truth that is used and has neighbours {self.options.offsets}, "
                f"expected at least one ({self.left_out})"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        drive, frame = self.items[index]
        crop = _crop(drive.intrinsics(), self.options.size)
        path = depth_path(drive, frame)
        depth = read_annotated_depth(path)
        require_pixels(path, depth, crop.source.width, crop.source.height, "the images")
        return Sample(
            name=f"{drive.drive}_{frame:010d}",
            observation=self.observation(drive, frame),
            depth_m=crop.depth(depth),
            moving=self.moving(drive, frame),
        )

    def observation(self, drive: OdometryDrive, frame: int) -> Observation:
        """Key frame and neighbours of any frame of a sequence, with or without depth truth."""
        shots = [(frame, CAMERAS[0]), *self._neighbours(frame)]
        frames = tuple(self._cropped(drive.posed_frame(number, camera)) for number, camera in shots)
        return Observation(frames, self.base_from_camera(drive))

    def base_from_camera(self, drive: OdometryDrive) -> Float64Array:
        """(4, 4) mount of the key frames' camera."""
        return drive.base_from_camera(CAMERAS[0])

    def moving(self, drive: OdometryDrive, frame: int) -> BoolArray | None:
        """(rows, columns) bool of the images' size, None where the frame has no mask. Raises by file name.

        Images of another shape than the masks are another crop: what masks do not show of it counts as standing still.
        """
        mask = read_moving_mask(drive, frame)
        if mask is None:
            return None
        masked, shown = (centred_camera(_crop(drive.intrinsics(), size)) for size in (MASK_SIZE, self.options.size))
        found: BoolArray = sample_depth(mask, masked, shown)[0] == 1
        return found

    def neighbourless(self, drive: OdometryDrive, frame: int) -> bool:
        """True where an image or a pose of a neighbour is missing."""
        return not all(
            drive.has_image(number, camera) and drive.has_pose(number) for number, camera in self._neighbours(frame)
        )

    def _neighbours(self, frame: int) -> list[tuple[int, str]]:
        shots = [(frame + offset, CAMERAS[0]) for offset in self.options.offsets]
        return shots + ([(frame, CAMERAS[1])] if self.options.stereo else [])

    def _cropped(self, frame: PosedFrame) -> PosedFrame:
        crop = _crop(frame.intrinsics, self.options.size)
        return replace(frame, image=crop.image(frame.image), intrinsics=crop.intrinsics)

    def _frames(self, drive: OdometryDrive) -> list[int]:
        """Key frames of a sequence; counts the others."""
        annotated = sorted(annotated_frames(drive) & set(drive.frames))
        margin = self.options.margin
        within = [frame for frame in annotated if margin <= frame < drive.length - margin]
        masks = [read_index_mask(drive.folder / f"{name}.json") for name in self.options.index_masks]
        used = [frame for frame in within if all(mask.get(frame) for mask in masks)]
        whole = [frame for frame in used if not self.neighbourless(drive, frame)]
        out = self.left_out
        self.left_out = LeftOut(
            out.without_neighbour + len(used) - len(whole),
            out.masked + len(within) - len(used),
            out.at_ends + len(annotated) - len(within),
        )
        return whole


@lru_cache(maxsize=16)
def _crop(source: Intrinsics, size: tuple[int, int]) -> PublishedCrop:
    return PublishedCrop(source, size)


def centred_camera(crop: PublishedCrop) -> Intrinsics:
    """Camera of a crop's images whose pixels have their centres at whole numbers, which the published one is half a
    pixel of the source off."""
    published = crop.intrinsics
    half = (published.fx / crop.source.fx - 1) / 2
    return replace(published, cx=published.cx + half, cy=published.cy + half)


def moving_mask_path(drive: OdometryDrive, frame: int) -> Path:
    """Where the mask of moving objects of a frame lies (or would)."""
    return drive.folder / MASK_FOLDER / f"{frame:06d}.npy"


def has_moving_masks(drive: OdometryDrive) -> bool:
    """True where some frame of the sequence has a mask."""
    return any((drive.folder / MASK_FOLDER).glob("*.npy"))


def read_moving_mask(drive: OdometryDrive, frame: int) -> BoolArray | None:
    """``MASK_SIZE`` bool on the published crop, None where a frame has no mask. Raises ``ValueError`` by file name."""
    path = moving_mask_path(drive, frame)
    if not path.is_file():
        return None
    try:
        mask = np.load(path, allow_pickle=False).squeeze()
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as numbers ({error}), expected {MASK_SIZE}") from None
    if mask.shape != MASK_SIZE:
        raise ValueError(f"{path}: got shape {mask.shape}, expected {MASK_SIZE}")
    inside: BoolArray = mask > 0.5
    return inside


def read_index_mask(path: Path) -> dict[int, bool]:
    """Frame number to whether it is used. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    text = require_file(path, "an index mask, frame numbers with true or false").read_text()
    try:
        found = {int(frame): bool(used) for frame, used in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise ValueError(f'{path}: got no index mask, expected json of the form {{"12": true, ...}}') from None
    return found


def _sequences(root: str | Path, wanted: Sequence[str]) -> Sequence[str]:
    there = sequences_of(root)
    missing = sorted(set(wanted) - set(there))
    if missing or not there:
        raise FileNotFoundError(
            f"{root}: got no sequence {', '.join(missing) or 'at all'}, expected sequences/<name>/calib.txt "
            f"(there are {', '.join(there) or 'none'})"
        )
    return [name for name in there if not wanted or name in wanted]
