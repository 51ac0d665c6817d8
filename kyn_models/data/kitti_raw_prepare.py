"""Prepared KITTI raw: images at the size that training reads, and the depth truth of evaluation without its scans.

The layout stays that of the data set, in another folder, so that ``KittiRawFolder`` reads it. Images are resized whole
and bilinearly, as published. A file appears under its name only when it is whole, and a folder holds images of one size
and format only: a run that ended in any way is continued by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kyn_models.data.calibration import read_scan
from kyn_models.data.kitti_raw import CAMERA_OF_SIDE, CAMERAS, KittiRawFolder
from kyn_models.data.lidar_depth import published_returns, write_returns
from kyn_models.data.prepare_pool import (
    Made,
    Shot,
    in_batches,
    make_all,
    make_each,
    make_folders,
    read_official,
    require_size,
)
from kyn_models.data.splits import read_split
from kyn_models.types import Float32Array, Float64Array, UInt8Array
from kyn_models.whole_files import copy_file, put, write_image

SETTINGS = "prepared.json"
SCAN = ".bin"
STEPS = (0, 1)
"""Frames of a training sample, counted from its key frame, as published."""


@dataclass(frozen=True)
class RawOptions:
    """size: (rows, columns) of the images. ending: .png or .jpg. drives: names, None for all. splits: files whose key
    frames are made, with the next frame and the stereo partner; none for all frames. depth: also the depth truth, of
    the key frames of splits, else of all left images. images: False leaves them out (with ``depth``).
    """

    size: tuple[int, int] = (192, 640)
    ending: str = ".png"
    drives: tuple[str, ...] | None = None
    splits: tuple[Path, ...] = ()
    depth: bool = False
    images: bool = True

    def __post_init__(self) -> None:
        require_size(self.size)
        if not (self.images or self.depth):
            raise ValueError("prepare: got neither images nor depth, expected at least one of them")


@dataclass(frozen=True)
class Recipe:
    """What the files of one camera are made with. source: (width, height) of its official images; size: (rows, columns)
    of the prepared ones; projection: (3, 4) scanner to pixels."""

    source: tuple[int, int]
    size: tuple[int, int]
    projection: Float64Array


@dataclass(frozen=True)
class Plan:
    """What is to be made, by (drive, camera), and a sentence for everything that is missing."""

    data: Path
    out: Path
    options: RawOptions
    recipes: dict[tuple[str, str], Recipe]
    shots: dict[tuple[str, str], list[Shot]]
    lacks: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(shots) for shots in self.shots.values())


def plan(data: Path, out: Path, options: RawOptions) -> Plan:
    """What is to be made of ``data``. Writes nothing.

    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong: no drive, an unknown one, nothing to
    make, ``out`` being ``data`` or holding images of other settings.
    """
    if out.resolve() == data.resolve():
        raise ValueError(f"--out: got the data set's own folder {out}, expected another one: file names are the same")
    folder = KittiRawFolder(data)
    there = folder.drives()
    drives = [name for name in there if options.drives is None or {name, Path(name).name} & set(options.drives)]
    unknown = [n for n in options.drives or () if not any(n in (name, Path(name).name) for name in there)]
    if unknown or not there:
        raise FileNotFoundError(
            f"{data}: got no drive {', '.join(unknown) or 'at all'}, expected <date>/<drive>_sync "
            f"(there are {len(there)})"
        )
    _require_same_settings(out, options)
    images, keys, lacks = _wanted(folder, drives, options)
    shots: dict[tuple[str, str], list[Shot]] = {}
    for drive, camera in ((drive, camera) for drive in drives for camera in CAMERAS):
        found = shots.setdefault((drive, camera), [])
        if options.images:
            found += _image_shots(folder, out, drive, camera, images[drive, camera], options.ending, lacks)
        if options.depth:
            found += _depth_shots(folder, out, drive, camera, keys[drive, camera], lacks)
    shots = {place: found for place, found in shots.items() if found}
    if not shots:
        raise FileNotFoundError(f"{data}: got nothing to prepare; {'; '.join(lacks) or 'are the splits for it?'}")
    return Plan(data, out, options, {place: _recipe(folder, *place, options) for place in shots}, shots, tuple(lacks))


def prepare(
    work: Plan, workers: int, strict: bool = False, progress: Callable[[Made], None] = lambda made: None
) -> Made:
    """Make what is missing, in ``workers`` processes. Calibration and the measurements of the GPS are copied first.

    strict: a file that cannot be read ends the work. progress is given the sum so far. Raises ``ValueError`` for such
    a file, ``OSError`` naming the one that cannot be written.
    """
    work.out.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(_settings(work.options))
    if work.options.images:
        put(work.out / SETTINGS, lambda part: part.write_text(settings))
    _copy_small_files(work)
    make_folders(shot.target for shots in work.shots.values() for shot in shots)
    return make_all(_make, in_batches(work.recipes, work.shots), workers, strict, progress)


def _settings(options: RawOptions) -> dict[str, object]:
    return {"rows": options.size[0], "columns": options.size[1], "ending": options.ending}


def _require_same_settings(out: Path, options: RawOptions) -> None:
    path = out / SETTINGS
    if options.images and path.is_file() and json.loads(path.read_text()) != _settings(options):
        raise ValueError(
            f"{out}: got images of {path.read_text().strip()}, expected {_settings(options)}; choose another folder"
        )


Frames = dict[tuple[str, str], set[int]]
"""Frame numbers by (drive, camera)."""


def _wanted(folder: KittiRawFolder, drives: Sequence[str], options: RawOptions) -> tuple[Frames, Frames, list[str]]:
    """Frames whose images, and frames whose depth truth is wanted; what is missing."""
    places = [(drive, camera) for drive in drives for camera in CAMERAS]
    images: Frames = {place: set() for place in places}
    keys: Frames = {place: set() for place in places}
    if not options.splits:
        images = {place: set(folder.image_frames(*place)) for place in places}
        return images, keys | {place: images[place] for place in places if place[1] == CAMERAS[0]}, []
    absent: dict[str, int] = {}
    for line in (line for split in options.splits for line in read_split(split)):
        camera = CAMERA_OF_SIDE[line.camera]
        if (line.drive, camera) not in keys:
            absent[line.drive] = absent.get(line.drive, 0) + 1
            continue
        keys[line.drive, camera].add(line.frame)
        for name in CAMERAS:
            last = max(folder.image_frames(line.drive, name), default=line.frame)
            images[line.drive, name] |= {line.frame} | {min(line.frame + step, last) for step in STEPS}
    lacks = [
        f"{drive} is not among the drives here, for {count} lines of the splits" for drive, count in absent.items()
    ]
    return images, keys, lacks


def _image_shots(
    folder: KittiRawFolder, out: Path, drive: str, camera: str, frames: set[int], ending: str, lacks: list[str]
) -> list[Shot]:
    there = folder.image_frames(drive, camera)
    if frames - there:
        path = folder.image_path(drive, min(frames - there), camera)
        lacks.append(f"{path.parent}: lacks {len(frames - there)} images")
    target = out / drive / f"image_{camera}" / "data"
    return [
        Shot(folder.image_path(drive, frame, camera), target / f"{frame:010d}{ending}")
        for frame in sorted(frames & there)
    ]


def _depth_shots(
    folder: KittiRawFolder, out: Path, drive: str, camera: str, frames: set[int], lacks: list[str]
) -> list[Shot]:
    there = {int(path.stem) for path in folder.scan_path(drive, 0).parent.glob(f"*{SCAN}") if path.stem.isdigit()}
    if frames - there:
        lacks.append(f"{folder.scan_path(drive, 0).parent}: lacks {len(frames - there)} scans")
    target = folder.truth_path(drive, 0, camera).parent.relative_to(folder.root)
    return [
        Shot(folder.scan_path(drive, frame), out / target / f"{frame:010d}.npz") for frame in sorted(frames & there)
    ]


def _recipe(folder: KittiRawFolder, drive: str, camera: str, options: RawOptions) -> Recipe:
    k = folder.intrinsics(drive, camera)
    return Recipe((k.width, k.height), options.size, folder.scan_projection(drive, camera))


def _copy_small_files(work: Plan) -> None:
    """Calibration and GPS, so that a reader needs the prepared folder alone; what is there already stays."""
    drives = {drive for drive, _ in work.shots}
    patterns = [f"{date}/calib_*.txt" for date in {drive.split("/")[0] for drive in drives}]
    patterns += [f"{drive}/oxts/data/*.txt" for drive in drives]
    for path in (path for pattern in patterns for path in sorted(work.data.glob(pattern))):
        target = work.out / path.relative_to(work.data)
        if not target.is_file():
            copy_file(path, target)


def _make(recipe: Recipe, shots: Sequence[Shot]) -> Made:
    return make_each(shots, lambda shot: shot.target.is_file(), lambda shot: _content(recipe, shot.source), _write)


def _content(recipe: Recipe, source: Path) -> Float32Array | UInt8Array:
    """The depth truth that a scan gives, or the image at the wanted size."""
    width, height = recipe.source
    if source.suffix == SCAN:
        return published_returns(read_scan(source), recipe.projection, width, height)
    image = read_official(source, "a rectified colour image", width, height)
    rows, columns = recipe.size
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _write(shot: Shot, content: np.ndarray) -> None:
    if shot.source.suffix == SCAN:
        write_returns(shot.target, content)
    else:
        write_image(shot.target, content)
