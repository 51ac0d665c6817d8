"""The images that benchmarks run on: real ones in turn, never a constant one. numpy and OpenCV.

A network's time does not depend on what it sees, that of the decoder does: a ray ends at the first solid thing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kyn_models.artifact import TrainingCamera
from kyn_models.types import Intrinsics, Observation

FEWEST = 3
MOST = 8
"""Images that are taken of a longer drive, evenly spread."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
STREET_SEED = 700_000
"""First of our own streets that nothing was trained on."""


@dataclass(frozen=True)
class BenchmarkImages:
    """At least three observations of one camera and mount. source: what they are, in words."""

    observations: tuple[Observation, ...]
    source: str

    def __post_init__(self) -> None:
        if len(self.observations) < FEWEST:
            raise ValueError(
                f"images: got {len(self.observations)} from {self.source}, expected at least {FEWEST}, so that no "
                "cache answers for the model; give more files or another folder"
            )
        sizes = sorted({item.key.image.shape[1::-1] for item in self.observations})
        if len(sizes) > 1:
            found = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise ValueError(f"images: got sizes {found} from {self.source}, expected one camera; give images of one")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """``--images`` and ``--data``, the same for every benchmark."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--images", type=Path, nargs="+", metavar="FILE|DIR", help="pictures or folders of them, of one camera"
    )
    source.add_argument("--data", type=Path, metavar="DIR", help="KITTI-360 folder (else our own synthetic streets)")
    parser.add_argument("--drive", help="drive of the KITTI-360 folder (else its only or first one)")


def load_images(args: argparse.Namespace, camera: TrainingCamera) -> BenchmarkImages:
    """The images that ``add_image_arguments`` named, seen by the camera that they come from.

    camera: that of the model, for pictures whose camera nobody knows. Raises ``ValueError`` or ``OSError``.
    """
    if args.drive and args.data is None:
        raise ValueError("--drive: got a drive without --data, expected the KITTI-360 folder that holds it")
    if args.images:
        return pictures(args.images, camera)
    if args.data is not None:
        return drive_images(args.data, args.drive)
    return street_images()


def pictures(paths: Sequence[Path], camera: TrainingCamera) -> BenchmarkImages:
    """Pictures of files and folders (sorted), at the training mount.

    Of the training camera where they have the size of its images, else of one with a field of view of 70 degrees.
    """
    from kyn_models.cli.image import DEFAULT_FOV_DEG, camera_from_fov
    from kyn_models.image_file import read_rgb
    from kyn_models.types import PosedFrame

    files = [file for path in paths for file in _files(path)]
    images = [read_rgb(file, "a picture") for file in spread(files)]
    observations, assumed = [], "the training camera"
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        intrinsics: Intrinsics = camera.source
        if (width, height) != (intrinsics.width, intrinsics.height):
            intrinsics = camera_from_fov(DEFAULT_FOV_DEG, width, height)
            assumed = f"a camera of {DEFAULT_FOV_DEG:g} degrees"
        observations.append(Observation((PosedFrame(image, intrinsics, number + 1),), camera.base_from_camera()))
    return BenchmarkImages(tuple(observations), f"{len(images)} pictures, taken as those of {assumed}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]  # whether it is there and a picture, says who reads it
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)


def drive_images(root: Path, drive: str | None) -> BenchmarkImages:
    """Images of a KITTI-360 drive with its calibrated camera and mount."""
    from kyn_models.data.kitti360 import Kitti360, drives_of

    reader = Kitti360(root, drive or drives_of(root)[0])
    chosen = spread(reader.frames)
    observations = tuple(reader.sample(frame).observation for frame in chosen)
    return BenchmarkImages(observations, f"{len(chosen)} images of KITTI-360 {reader.drive}")


def street_images() -> BenchmarkImages:
    """Pictures of our own synthetic streets, at the size and with the camera and mount of KITTI-360."""
    from kyn_models.data.streets import Streets, StreetsOptions

    options = StreetsOptions(
        streets=FEWEST,
        frames_per_street=1,
        first_seed=STREET_SEED,
        width=1408,
        height=376,
        views=(),
        mount_strength=0.0,
    )
    streets = Streets(options)
    observations = tuple(streets[index].observation for index in range(len(streets)))
    return BenchmarkImages(observations, f"{len(streets)} pictures of our own synthetic streets, no real images")


def spread(items: Sequence) -> list:
    """At most ``MOST`` of the items, evenly spread over all."""
    index = np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST)).round().astype(int))
    return [items[i] for i in index] if len(items) else []
