"""Files that are there whole or not at all: an interruption or a full disk leaves no halves. numpy and OpenCV."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2

from kyn_models.types import UInt8Array


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file beside ``path``, then put it there at once. Raises ``OSError`` naming ``path``."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a failed write has none
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file. Raises ``OSError`` naming it."""
    put(path, lambda part: part.write_bytes(content))


def write_image(path: Path, image: UInt8Array) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, or as JPEG of quality 95 where the name ends so. Raises ``OSError`` naming it.

    Without further options OpenCV's PNG encoder is the fastest here, and its files are no larger.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    done, content = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f"{path}: could not be encoded as {path.suffix[1:].upper()}")
    write_whole(path, content.tobytes())


def copy_file(source: Path, target: Path) -> None:
    """Copy one file; its folder is made. Raises ``OSError`` naming the file that cannot be read or written."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: missing, expected a file to copy to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    put(target, lambda part: shutil.copyfile(source, part))
