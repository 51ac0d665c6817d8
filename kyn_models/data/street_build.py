"""``make_street``: from a seed to a whole synthetic street."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kyn_models.data import street_layout
from kyn_models.data.street_scene import FRAME_S, Ego, Street
from kyn_models.data.street_weather import draw_light, draw_look, draw_paint

STYLES = ("residential", "terraced", "avenue", "open")
MOST_METRES = 5000.0
"""Longest drive."""


@dataclass(frozen=True)
class StreetOptions:
    """What kind of street.

    drive_m: length of the drive; step_m: (least, most) distance between frames, metres.
    style: how it is built; ``any`` draws one. traffic: how much moves in it, 1 as usual.
    sway: strength of the car body's motion (1: about 0.5 degrees).
    threads: threads of its renderer, None for one per core (does not change the result).
    """

    drive_m: float = 60.0
    step_m: tuple[float, float] = (0.7, 1.2)
    style: Literal["any", "residential", "terraced", "avenue", "open"] = "any"
    traffic: float = 1.0
    sway: float = 1.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 1.0 <= self.drive_m <= MOST_METRES:
            raise ValueError(f"street.drive_m: got {self.drive_m}, expected 1 to {MOST_METRES:.0f} metres")
        if not 0.0 < self.step_m[0] <= self.step_m[1]:
            raise ValueError(f"street.step_m: got {self.step_m}, expected (least, most) above 0")
        if not 0.0 <= self.traffic <= 20.0:
            raise ValueError(f"street.traffic: got {self.traffic}, expected 0 to 20")
        if self.style not in ("any", *STYLES):
            raise ValueError(f"street.style: got '{self.style}', expected any or one of {STYLES}")


def make_street(seed: int, options: StreetOptions | None = None) -> Street:
    """The street of that seed (0 or above); the same seed and options give the same street, byte for byte."""
    if seed < 0:
        raise ValueError(f"street seed: got {seed}, expected an integer of 0 or above")
    options = options or StreetOptions()
    rng, weather, motion = (np.random.default_rng((seed, stream)) for stream in range(3))
    layout = street_layout.new_layout(rng, options.drive_m, options.style)
    for side in (1, -1):
        street_layout.build_side(layout, side)
    street_layout.build_background(layout)
    street_layout.build_furniture(layout)
    street_layout.build_parking(layout, options.traffic)
    light = draw_light(weather)
    paint = draw_paint(weather, layout.half_m(1), layout.pavement_m, layout.verge_m)
    step = motion.uniform(*options.step_m)
    return Street(
        seed=seed,
        style=layout.style,
        frames=int(options.drive_m / step) + 1,
        rows=np.concatenate(layout.rows),
        movers=tuple(layout.movers),
        kinds=tuple(layout.kinds),
        centre=layout.centre,
        road=layout.road,
        paint=paint,
        light=light,
        look=draw_look(weather, light),
        ego=_ego(motion, step / FRAME_S, layout.ego_lateral_m, options.sway),
        threads=options.threads,
    )


def _ego(rng: np.random.Generator, speed: float, lateral: float, strength: float) -> Ego:
    """Slow waves of lateral position and heading, quicker ones of pitch and roll."""
    sway = np.empty((4, 3, 3))
    sizes = (0.06, math.radians(0.25), math.radians(0.25), math.radians(0.25))
    for k, size in enumerate(sizes):
        quick = 1.0 if k < 2 else 4.0
        for wave in range(3):
            sway[k, wave] = (
                strength * size * rng.uniform(0.3, 1.0),
                quick * rng.uniform(0.3, 2.0),
                rng.uniform(0, 2 * math.pi),
            )
    return Ego(speed, lateral, sway)
