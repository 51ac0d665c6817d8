"""Posed views of a data set at the network's size, stored once, read many times: what self-supervision learns from.

Every item is a key frame and its further views, each with camera and pose, and nothing else: no depth, no labels.
numpy and OpenCV.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from kyn_models.types import Float32Array, PosedFrame, Sample, UInt8Array


class Frames(Protocol):
    """A data set: samples that are read or rendered when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Views(NamedTuple):
    """One item, the key frame first.

    images: (V, h, w, 3) uint8 RGB. k_norm: (V, 3, 3) float32, of the images before they were resized.
    key_from_camera: (V, 4, 4) float32 poses of the optical frames in that of the key frame.
    """

    images: UInt8Array
    k_norm: Float32Array
    key_from_camera: Float32Array


class ViewItems(Protocol):
    """Items as training takes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Views: ...


def views_of(sample: Sample, size: tuple[int, int]) -> Views:
    """The views of a sample at (height, width). Raises ``ValueError`` for a frame without pose."""
    frames = (*sample.observation.frames, *sample.views)
    poses = [_pose(frame, sample.name) for frame in frames]
    key_from_world = np.linalg.inv(poses[0])
    height, width = size
    images = [cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    return Views(
        np.stack(images).astype(np.uint8, copy=False),
        np.stack([frame.intrinsics.normalised() for frame in frames]).astype(np.float32),
        np.stack([key_from_world @ pose for pose in poses]).astype(np.float32),
    )


def _pose(frame: PosedFrame, name: str) -> np.ndarray:
    if frame.world_from_camera is None:
        raise ValueError(f"{name}: got a frame without a pose, expected one of every view; view synthesis needs them")
    return frame.world_from_camera


class LiveViews:
    """The items of a data set, read anew every time. size: (height, width) of the images."""

    def __init__(self, frames: Frames, size: tuple[int, int]) -> None:
        self.frames, self.size = frames, size

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Views:
        return views_of(self.frames[index], self.size)


class FrameCache:
    """The items that ``build`` stored; arrays are memory maps."""

    NAMES = Views._fields

    def __init__(self, path: str | Path) -> None:
        self.arrays = stored_arrays(path, self.NAMES)

    def __len__(self) -> int:
        return len(self.arrays["images"])

    def __getitem__(self, index: int) -> Views:
        return Views(*(np.array(self.arrays[name][index]) for name in self.NAMES))


def stored_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Memory maps of what ``store`` wrote. Raises ``FileNotFoundError`` where that is not complete."""
    if not (Path(path) / "done.json").is_file():
        raise FileNotFoundError(f"{path}: holds no complete cache of views, expected one that kyn made")
    return {name: np.load(Path(path) / f"{name}.npy", mmap_mode="r") for name in names}


def build(
    path: str | Path,
    frames: Frames,
    size: tuple[int, int],
    settings: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
    save_every: int = 8,
) -> FrameCache:
    """Store the views of all items in ``path``; see ``store``."""
    settings = {**settings, "size": size}
    store(path, len(frames), lambda index: views_of(frames[index], size)._asdict(), settings, progress, save_every)
    return FrameCache(path)


def store(
    path: str | Path,
    count: int,
    make: Callable[[int], Mapping[str, np.ndarray]],
    settings: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
    save_every: int = 8,
) -> None:
    """Write named arrays of ``count`` items, all of one shape, to ``path``; goes on where an interrupted call stopped.

    settings: what the items depend on, plain values; a folder of other settings is refused with ``ValueError``.
    progress: receives the number of items that are done. save_every: items between two saved states.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps({**settings, "items": count}))
    done, state = path / "done.json", path / "building.json"
    if done.is_file():
        _require_same(json.loads(done.read_text()), wanted, path)
        return
    started = json.loads(state.read_text()) if state.is_file() else None
    if started is not None:
        _require_same(started["settings"], wanted, path)
    first = 0 if started is None else int(started["items"])
    arrays: dict[str, np.memmap] = {}
    for index in range(first, count):
        values = make(index)
        arrays = arrays or _open(path, values, count, "w+" if first == 0 else "r+")
        for name, value in values.items():
            arrays[name][index] = value
        if (index + 1) % save_every == 0:
            _flush(arrays)
            state.write_text(json.dumps({"settings": wanted, "items": index + 1}))
        progress(index + 1)
    _flush(arrays)
    done.write_text(json.dumps(wanted))


def _open(path: Path, arrays: Mapping[str, np.ndarray], items: int, mode: str) -> dict[str, np.memmap]:
    return {
        name: np.lib.format.open_memmap(path / f"{name}.npy", mode=mode, dtype=value.dtype, shape=(items, *value.shape))
        for name, value in arrays.items()
    }


def _flush(arrays: Mapping[str, np.memmap]) -> None:
    for array in arrays.values():
        array.flush()


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    if found != wanted:
        names = [name for name in wanted if found.get(name) != wanted[name]]
        raise ValueError(f"{path}: holds views of other settings ({', '.join(names)}), choose another folder")
