"""Files that are whole or absent: written beside their place, then given their name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2

from kyn_models.types import UInt8Array


def write_image(path: Path, image: UInt8Array) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, or as JPEG of quality 95 where the name ends so; whole or not at all.

    Raises ``OSError`` that names the file.
    """
    # Without further options OpenCV's PNG encoder is the fastest here, and its files are no larger.
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    done, content = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f"{path}: could not be encoded as {path.suffix[1:].upper()}")
    put(path, lambda part: part.write_bytes(content.tobytes()))


def copy_file(source: Path, target: Path) -> None:
    """Copy one file, whole or not at all; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    put(target, lambda part: shutil.copyfile(source, part))


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file beside ``path`` and give it that name when it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
