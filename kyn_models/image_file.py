"""Image files that people and recorders give: whole ones to pixels, all others to one sentence. numpy and OpenCV.

Damage is found before OpenCV sees the file: its decoders write their own words to standard error, and give back a JPEG
whose end is missing as if it were whole.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np

from kyn_models.types import UInt8Array

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_rgb(path: Path, what: str) -> UInt8Array:
    """(H, W, 3) uint8 RGB of an image file. what: what the file should be, for the sentence.

    Raises ``FileNotFoundError`` for a missing file or a folder, ``ValueError`` for one that cannot be read whole.
    """
    if path.is_dir():
        raise FileNotFoundError(f"{path}: is a folder, expected {what}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected {what}")
    content = path.read_bytes()
    fault = _fault(content)
    pixels = None if fault else cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path}: {fault or 'is not a readable image'}, expected {what}; copy it again")
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _fault(content: bytes) -> str:
    """What is wrong with the file, as far as its format tells; empty if nothing is."""
    if not content:
        return "is empty"
    if content.startswith(PNG_SIGNATURE):
        return _png_fault(content)
    # Entropy-coded data never holds these marks. A thumbnail's end comes before the scan of the image itself.
    if content.startswith(JPEG_START) and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        return "is truncated"
    return ""


def _png_fault(content: bytes) -> str:
    """Chunks of (length, name, data, checksum), the last one called IEND (PNG specification, 5.3)."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return "is damaged (a checksum is wrong)"
        if content[place + 4 : place + 8] == b"IEND":
            return ""
        place = end + 4
    return "is truncated"
