"""A colour for every class name: the same word always has the same one, whatever list it stands in. numpy only."""

from __future__ import annotations

import colorsys
import re
import zlib
from functools import lru_cache

import numpy as np

from kyn_models.types import UInt8Array

UNLABELLED = 255
"""Label of a cell about whose class nothing is said."""
UNLABELLED_COLOUR = (150, 152, 158)

FAMILIAR = {
    "ground": (128, 104, 82),
    "road": (118, 118, 124),
    "person": (220, 30, 60),
    "rider": (255, 96, 70),
    "car": (40, 100, 235),
    "truck": (22, 60, 150),
    "bus": (0, 140, 170),
    "train": (90, 60, 200),
    "bicycle": (150, 40, 90),
    "sidewalk": (232, 120, 220),
    "parking": (250, 176, 166),
    "railtrack": (170, 120, 60),
    "building": (176, 150, 132),
    "wall": (112, 110, 160),
    "fence": (196, 160, 100),
    "bridge": (136, 66, 76),
    "pole": (206, 206, 214),
    "trafficlight": (250, 150, 20),
    "trafficsign": (236, 220, 0),
    "vegetation": (66, 150, 52),
    "others": (120, 200, 200),
}
"""RGB of the outdoor classes of Know Your Neighbors, in the colours that street pictures usually give them."""


def class_colour(name: str) -> tuple[int, int, int]:
    """RGB of a class name; case, blanks and hyphens do not count. Words that are not ``FAMILIAR`` get their own hue."""
    key = re.sub(r"[\s_-]+", "", name.lower())
    if key in FAMILIAR:
        return FAMILIAR[key]
    number = zlib.crc32(key.encode())
    hue, lightness = (number & 0xFFFF) / 0x10000, 0.45 + 0.25 * (number >> 16) / 0x10000
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.7))
    return red, green, blue


@lru_cache(maxsize=8)
def class_table(names: tuple[str, ...]) -> UInt8Array:
    """(256, 3) uint8 RGB by label; labels without a name, among them ``UNLABELLED``, are grey. Not to be written to."""
    table = np.full((256, 3), UNLABELLED_COLOUR, dtype=np.uint8)
    for number, name in enumerate(names[:UNLABELLED]):
        table[number] = class_colour(name)
    table.setflags(write=False)
    return table


def present(labels: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes among ``labels`` (any shape), most frequent first; ``no class`` last."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    order = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]
    entries = [(names[number], class_colour(names[number])) for number in order if number < len(names)]
    if any(number >= len(names) for number in order):
        entries.append(("no class", UNLABELLED_COLOUR))
    return entries
