"""Files of the KITTI family: ``key: numbers`` tables, pose lists, stamps, images and scans, with errors by name."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from kyn_models.image_file import read_rgb
from kyn_models.types import Float32Array, Float64Array, Intrinsics, UInt8Array


def require_file(path: Path, what: str) -> Path:
    """``path`` if it is a file, else ``FileNotFoundError`` that names it and says what it is."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a folder' if path.is_dir() else 'missing'}, expected {what}")
    return path


def read_table(path: Path, what: str) -> dict[str, Float64Array]:
    """The ``key: number number ...`` lines of a calibration file; lines with other values are left out.

    Raises ``FileNotFoundError`` naming the file.
    """
    table = {}
    for line in require_file(path, what).read_text().splitlines():
        key, separator, values = line.partition(":")
        if not separator:
            continue
        try:
            table[key.strip()] = np.array([float(value) for value in values.split()], dtype=np.float64)
        except ValueError:
            continue  # dates and other text entries
    return table


def entry(table: dict[str, Float64Array], key: str, shape: tuple[int, ...], path: Path) -> Float64Array:
    """Entry ``key`` in ``shape``, or ``ValueError`` that names file and key."""
    if key not in table:
        raise ValueError(f"{path}: got no entry {key!r}, expected one with {int(np.prod(shape))} numbers")
    if table[key].size != np.prod(shape):
        raise ValueError(f"{path}: got {table[key].size} numbers for {key!r}, expected {int(np.prod(shape))}")
    return table[key].reshape(shape)


def transform(matrix: np.ndarray) -> Float64Array:
    """(4, 4) float64 from a (3, 3) rotation or a (3, 4) rigid transform."""
    full = np.eye(4)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full


def inverse(pose: np.ndarray) -> Float64Array:
    """Inverse of a rigid (4, 4) transform whose rotation may carry the few-digit rounding of a text file."""
    return np.linalg.inv(np.asarray(pose, dtype=np.float64))


def read_poses(path: Path, what: str) -> dict[int, Float64Array]:
    """Frame number to (4, 4) float64 pose from lines of ``frame`` and 12 (3x4) or 16 (4x4) numbers.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the line.
    """
    poses: dict[int, Float64Array] = {}
    for number, line in enumerate(require_file(path, what).read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = np.array([float(word) for word in words[1:]], dtype=np.float64)
            frame = int(float(words[0]))
        except (ValueError, OverflowError):  # an infinite frame number overflows
            values, frame = np.empty(0), -1
        if values.size not in (12, 16) or not np.isfinite(values).all():
            raise ValueError(
                f"{path}, line {number}: got {line[:60]!r}, expected a frame number and 12 or 16 finite numbers"
            )
        poses[frame] = transform(values.reshape(-1, 4)[:3])
    return poses


def read_image(path: Path, what: str) -> UInt8Array:
    """(H, W, 3) uint8 RGB. Raises ``FileNotFoundError``, or ``ValueError`` where it cannot be decoded."""
    return read_rgb(require_file(path, what), what)


def require_pixels(path: Path, image: np.ndarray, width: int, height: int, says: str) -> None:
    """says: what the size is known from. Raises ``ValueError`` naming the file of an image of another size."""
    if image.shape[:2] != (height, width):
        raise ValueError(f"{path}: got {image.shape[1]}x{image.shape[0]} pixels, expected {width}x{height} as {says}")


def read_scan(path: Path) -> Float32Array:
    """(N, 4) float32 x, y, z in metres (scanner axes: x forward, y left, z up) and reflectance 0..1.

    Raises ``FileNotFoundError``, or ``ValueError`` for a file that is not whole 16-byte points.
    """
    size = require_file(path, "a Velodyne scan").stat().st_size
    if size == 0 or size % 16:
        raise ValueError(
            f"{path}: got {size} bytes, expected a multiple of 16 above 0 (x, y, z, reflectance as float32); "
            "the scan is truncated, copy it again"
        )
    return np.fromfile(path, dtype="<f4").reshape(-1, 4)


def read_stamps(path: Path) -> list[int | None] | None:
    """Nanoseconds of each line of a ``timestamps.txt``, None for a blank line; None where there is no such file.

    The line number is the frame number: frames after a blank line keep their own stamps.
    """
    if not path.is_file():
        return None
    return [
        _nanoseconds(line, f"{path}, line {number}") if line.strip() else None
        for number, line in enumerate(path.read_text().rstrip().splitlines(), start=1)
    ]


def _nanoseconds(text: str, source: str) -> int:
    """``YYYY-MM-DD hh:mm:ss.fffffffff`` as nanoseconds since 1970, UTC, without rounding."""
    date, _, fraction = text.strip().partition(".")
    try:
        seconds = datetime.strptime(date, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
        if len(fraction) > 9:
            raise ValueError
        return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))
    except ValueError:
        raise ValueError(f"{source}: got {text.strip()!r}, expected 'YYYY-MM-DD hh:mm:ss.fffffffff'") from None


def resized_source(source: Intrinsics, width: int, height: int) -> Intrinsics:
    """The camera of the whole image resized whose ``normalised()`` is that of ``source``: c' = c s, f' = f s.

    Networks are trained on resized images with the K_norm of the source camera, as published. That is half a pixel off
    the centre-correct ``Intrinsics.resized``.
    """
    if (width, height) == (source.width, source.height):
        return source
    sx, sy = width / source.width, height / source.height
    return Intrinsics(source.fx * sx, source.fy * sy, source.cx * sx, source.cy * sy, width, height)
