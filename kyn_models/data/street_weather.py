"""Light, camera response and ground paint of a synthetic street, drawn at random. Arrays as ``street_render`` and
``street_ground`` describe them."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from kyn_models.types import Float64Array


def draw_light(rng: Generator) -> Float64Array:
    """Sun, sky and haze: clear, hazy or overcast."""
    kind = rng.choice(3, p=(0.66, 0.16, 0.18))
    elevation, azimuth = rng.uniform(math.radians(14), math.radians(64)), rng.uniform(0, 2 * math.pi)
    sun = np.array(
        (math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation))
    )
    warm = 1.0 - 0.5 * math.exp(-3.0 * math.sin(elevation))
    strength = (rng.uniform(2.4, 3.4), rng.uniform(1.0, 1.8), 0.0)[kind]
    sunlight = strength * np.array((1.0, 0.55 + 0.42 * warm, 0.35 + 0.55 * warm))
    light = np.zeros(24)
    light[0:3], light[3:6], light[6] = sun, sunlight, rng.uniform(0.3, 0.8)
    light[7] = rng.choice((0.0002, 0.0008, 0.003), p=(0.5, 0.35, 0.15)) * rng.uniform(0.5, 1.5)
    if kind == 2:
        grey = rng.uniform(0.8, 1.5)
        light[8:11], light[11:14] = grey * np.array((1.0, 1.02, 1.05)), grey * np.array((0.82, 0.87, 0.95))
        light[14], light[15], light[17] = rng.uniform(0.2, 0.8), grey * 0.95, 0.8
        light[3:6] = 0.45 * grey
        light[0:3] = (0.2 * sun[0], 0.2 * sun[1], 0.98)
        light[18:21] = grey * np.array((0.52, 0.54, 0.58))
    else:
        bright = rng.uniform(0.9, 1.5)
        deep = rng.uniform(0.45, 0.9)
        light[8:11] = bright * np.array((1.0, 1.05, 1.12))
        light[11:14] = bright * np.array((0.42 * deep, 0.68 * deep, 1.15 * deep))
        light[14], light[15] = rng.choice((0.0, rng.uniform(0.2, 0.7))), bright * 1.35
        light[17] = (0.0, 0.06)[kind]
        shade = rng.uniform(0.28, 0.62) if kind == 0 else rng.uniform(0.5, 0.8)
        light[18:21] = shade * bright * np.array((0.8, 0.95, 1.15))
    light[16] = float(rng.integers(1 << 20))
    light[21] = rng.uniform(0.35, 0.62)
    return light


def draw_look(rng: Generator, light: Float64Array) -> Float64Array:
    """Exposure for that light, gamma, contrast, white balance, vignette and noise."""
    arriving = light[4] * max(light[2], 0.35) + light[19]
    exposure = rng.uniform(0.8, 2.4) / arriving
    warm = rng.normal(0.0, 0.05)
    balance = np.array((1.0 + warm, 1.0, 1.0 - warm)) * rng.uniform(0.97, 1.03, 3)
    numbers = (rng.uniform(0.42, 0.62), rng.uniform(0.0, 1.1))
    return np.array(
        (exposure, *numbers, *balance, rng.uniform(0.0, 0.35), rng.uniform(0.002, 0.012), rng.uniform(0.85, 1.5))
    )


def draw_paint(
    rng: Generator, half_m: float, pavement_m: tuple[float, float], verge_m: tuple[float, float]
) -> Float64Array:
    """Colours and patterns of the ground for a road of half width ``half_m``."""
    paint = np.zeros(32)
    tint = rng.uniform(0.94, 1.06, 3)
    paint[0:3] = rng.uniform(0.06, 0.2) * tint
    paint[3], paint[4] = rng.uniform(0.05, 0.4), rng.choice((0.0, 0.12, 0.35))
    paint[5] = rng.choice((0, 1, 2), p=(0.75, 0.17, 0.08)) * (half_m > 2.9)
    paint[6:9] = rng.uniform(0.1, 0.34) * np.array((1.0, rng.uniform(0.86, 1.0), rng.uniform(0.75, 0.98)))
    paint[9] = rng.choice((0.0, 0.1, 0.2, 0.3, 0.5), p=(0.2, 0.2, 0.2, 0.2, 0.2))
    paint[10:13] = np.array((0.06, 0.1, 0.025)) * rng.uniform(0.6, 1.5)
    paint[13:16] = np.array((0.13, 0.14, 0.05)) * rng.uniform(0.6, 1.6)
    paint[16:18], paint[18:20] = pavement_m, verge_m
    paint[20], paint[21] = float(rng.random() < 0.4), rng.choice((0.0, 18.0, 30.0))
    paint[22], paint[23] = rng.uniform(0.0, 0.5), rng.choice((0.0, 2.0), p=(0.8, 0.2)) * (half_m > 3.5)
    paint[24] = float(rng.integers(1 << 20))
    paint[25:28] = rng.uniform(0.14, 0.4) * rng.uniform(0.95, 1.05, 3)
    paint[28], paint[29] = float(rng.random() < 0.08), rng.choice((0.0, 14.0, 21.0))
    return paint
