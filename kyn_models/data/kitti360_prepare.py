"""Prepared KITTI-360 images: perspective ones made small, fisheye ones rectified; in many processes, again and again.

What is made, and its camera: see ``kitti360_cameras``; how: bilinear, as the papers' ``preprocess_kitti_360.py``, which
leaves out the tangential terms p1 and p2 of the fisheye lens and shrinks pixel positions by 1399 / 1400: both together
move a pixel by up to about one of the 1400. A file appears under its name only when it is whole, so a run that ended in
any way is continued by the next one.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from kyn_models.data.calibration import read_poses
from kyn_models.data.kitti360_cameras import (
    FISHEYE_ROTATION,
    FISHEYES,
    PERSPECTIVES,
    PREPARED_SIZE,
    PUBLISHED_VIEWS,
    Rotation,
    image_folder,
    mirrored,
    posed_after,
    prepared_intrinsics,
    raw_from_rectified,
    read_source,
)
from kyn_models.data.mei_camera import MeiCamera, read_mei, rectifying_map
from kyn_models.data.prepare_pool import (
    Made,
    in_batches,
    make_all,
    make_each,
    make_folders,
    read_official,
    require_size,
)
from kyn_models.data.splits import drives_of, read_split
from kyn_models.image_file import PNG_SIGNATURE
from kyn_models.types import Intrinsics, UInt8Array
from kyn_models.whole_files import copy_file, write_image


@dataclass(frozen=True)
class PrepareOptions:
    """size: (rows, columns) of the prepared images. cameras: of 00 to 03. rotations: (yaw, pitch) in degrees, fisheye
    images are made for each. drives: None for all. splits: files that name the samples whose images are made, with
    those of ``PUBLISHED_VIEWS``; none for all images.
    """

    size: tuple[int, int] = PREPARED_SIZE
    cameras: tuple[str, ...] = (*PERSPECTIVES, *FISHEYES)
    rotations: tuple[Rotation, ...] = (FISHEYE_ROTATION,)
    drives: tuple[str, ...] | None = None
    splits: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        require_size(self.size)
        for camera in self.cameras:
            if camera not in (*PERSPECTIVES, *FISHEYES):
                raise ValueError(f"cameras: got {camera!r}, expected 00, 01, 02 or 03")
        if not self.rotations or not np.isfinite(self.rotations).all():
            raise ValueError(f"rotations: got {self.rotations}, expected pairs of yaw and pitch in degrees")


@dataclass(frozen=True)
class Recipe:
    """How the images of one camera are made: from ``source`` to ``target``, a fisheye camera's for each rotation."""

    camera: str
    source: Intrinsics | MeiCamera
    target: Intrinsics
    rotations: tuple[Rotation, ...]


@dataclass(frozen=True)
class Shot:
    """An official image and the files that are made of it, one per rotation for a fisheye image."""

    source: Path
    targets: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """Shots by camera, and what the folder lacks, one sentence each."""

    recipes: dict[str, Recipe]
    shots: dict[str, list[Shot]]
    lacks: tuple[str, ...]

    def __len__(self) -> int:
        """Number of official images."""
        return sum(len(shots) for shots in self.shots.values())


def plan(data: Path, out: Path, options: PrepareOptions) -> Plan:
    """What is to be made of the images below ``data``, in the same layout below ``out``. Writes nothing.

    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong: no image at all, no calibration for
    images that are there, an unknown drive.
    """
    there = drives_of(data)
    for drive in options.drives or ():
        if drive not in there:
            raise FileNotFoundError(f"{data / 'data_2d_raw' / drive}: no such drive, there are {', '.join(there)}")
    drives = options.drives or there
    wanted, lacks = _frames_of_splits(data, drives, options.splits) if options.splits else (None, [])
    shots: dict[str, list[Shot]] = {}
    for camera in options.cameras:
        rotations: tuple[Rotation, ...] = options.rotations if camera in FISHEYES else (FISHEYE_ROTATION,)
        folders = [image_folder(camera, options.size, rotation) for rotation in rotations]
        for drive in drives:
            images = Path("data_2d_raw") / drive / f"image_{camera}"
            source = data / images / image_folder(camera)
            frames = sorted(path for path in source.glob("*.png") if path.stem.isdigit())
            if not frames:
                lacks.append(f"{source}: {'holds no image' if source.is_dir() else 'missing'}, left out")
            if wanted is not None:
                frames = [path for path in frames if int(path.stem) in wanted[drive, camera]]
            shots.setdefault(camera, []).extend(
                Shot(path, tuple(out / images / folder / path.name for folder in folders)) for path in frames
            )
    if not any(shots.values()):
        why = lacks[0] if lacks else "none of the frames that the splits name is there"
        raise FileNotFoundError(f"{data}: got no image of cameras {', '.join(options.cameras)} to prepare; {why}")
    recipes = {camera: _recipe(data, camera, options) for camera, found in shots.items() if found}
    return Plan(recipes, {camera: shots[camera] for camera in recipes}, tuple(lacks))


def prepare(
    work: Plan, workers: int, strict: bool = False, progress: Callable[[Made], None] = lambda made: None
) -> Made:
    """Make what is missing; files that are whole and of the right size stay as they are.

    workers: processes; 1 works in this one. strict: an image that cannot be read ends the work. progress is given the
    sum so far. Raises ``ValueError`` for such an image, ``OSError`` naming the file that cannot be written.
    """
    make_folders(target for shots in work.shots.values() for shot in shots for target in shot.targets)
    return make_all(_make, in_batches(work.recipes, work.shots), workers, strict, progress)


def copy_small_files(data: Path, out: Path, drives: Sequence[str]) -> None:
    """Calibration, poses and stamps beside prepared images that lie elsewhere, so that a reader needs ``out`` alone."""
    patterns = ["calibration/*.txt", "calibration/*.yaml"]
    for drive in drives:
        patterns += [f"data_poses/{drive}/*.txt", f"data_2d_raw/{drive}/image_*/timestamps.txt"]
    for path in (path for pattern in patterns for path in sorted(data.glob(pattern))):
        copy_file(path, out / path.relative_to(data))


def is_whole(path: Path, width: int, height: int) -> bool:
    """Whether the file is a PNG of this size that was written to its end."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
            file.seek(-12, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    return head.startswith(PNG_SIGNATURE) and head[16:] == struct.pack(">II", width, height) and end[4:8] == b"IEND"


def _recipe(data: Path, camera: str, options: PrepareOptions) -> Recipe:
    if camera in PERSPECTIVES:
        pinhole = read_source(data, camera)
        return Recipe(camera, pinhole, prepared_intrinsics(camera, pinhole, options.size), (FISHEYE_ROTATION,))
    target = prepared_intrinsics(camera, read_source(data), options.size)
    return Recipe(camera, read_mei(data / "calibration" / f"image_{camera}.yaml"), target, options.rotations)


def _frames_of_splits(
    data: Path, drives: Sequence[str], splits: Sequence[Path]
) -> tuple[dict[tuple[str, str], set[int]], list[str]]:
    """Frame numbers that are needed, by (drive, camera), and what is missing."""
    posed = {drive: sorted(read_poses(data / "data_poses" / drive / "poses.txt", "vehicle poses")) for drive in drives}
    ranks = {drive: {frame: rank for rank, frame in enumerate(frames)} for drive, frames in posed.items()}
    wanted: dict[tuple[str, str], set[int]] = {
        (drive, camera): set() for drive in drives for camera in (*PERSPECTIVES, *FISHEYES)
    }
    poseless, elsewhere = Counter[str](), Counter[str]()
    for line in (line for split in splits for line in read_split(split)):
        if line.frame not in ranks.get(line.drive, ()):
            (poseless if line.drive in ranks else elsewhere)[line.drive] += 1
            continue
        views = mirrored(PUBLISHED_VIEWS) if line.camera == "01" else PUBLISHED_VIEWS
        for camera, offset in ((line.camera, 0), *views):
            frame = posed_after(posed[line.drive], ranks[line.drive], line.frame, offset)
            wanted[line.drive, camera].add(frame)
    lacks = [f"{drive} has no pose for {count} lines of the splits" for drive, count in poseless.items()]
    if elsewhere:
        others = ", ".join(elsewhere)
        lacks.insert(0, f"{elsewhere.total()} lines of the splits name drives that are not among those here: {others}")
    return wanted, lacks


def _make(recipe: Recipe, shots: Sequence[Shot]) -> Made:
    def write(shot: Shot, image: UInt8Array) -> None:
        for rotation, target in _lacking(recipe, shot):
            write_image(target, prepared_image(recipe, image, rotation))

    return make_each(shots, lambda shot: not _lacking(recipe, shot), lambda shot: _read(recipe, shot.source), write)


def _lacking(recipe: Recipe, shot: Shot) -> list[tuple[Rotation, Path]]:
    """The files of a shot that are not there, or not whole."""
    return [
        (rotation, target)
        for rotation, target in zip(recipe.rotations, shot.targets, strict=True)
        if not is_whole(target, recipe.target.width, recipe.target.height)
    ]


def prepared_image(recipe: Recipe, image: UInt8Array, rotation: Rotation) -> UInt8Array:
    """(rows, columns, 3) image of the recipe's target camera from an official one, both uint8 RGB."""
    if isinstance(recipe.source, MeiCamera):
        return cv2.remap(image, *_fixed_map(recipe.camera, recipe.source, recipe.target, rotation), cv2.INTER_LINEAR)
    return cv2.resize(image, (recipe.target.width, recipe.target.height), interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=8)
def _fixed_map(camera: str, source: MeiCamera, target: Intrinsics, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
    """The map in whole pixels and 32nds of them, which OpenCV samples faster."""
    pixels = rectifying_map(source, target, raw_from_rectified(camera, rotation))
    first, second = cv2.convertMaps(pixels, None, cv2.CV_16SC2)
    return first, second


def _read(recipe: Recipe, path: Path) -> UInt8Array:
    source = recipe.source
    return read_official(path, f"an image of camera {recipe.camera}", source.width, source.height)
