"""Where things stand in a synthetic street: road, lots with houses and gardens, furniture, parked and moving cars."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from kyn_models.data import street_buildings as buildings
from kyn_models.data import street_plants as plants
from kyn_models.data import street_vehicles as vehicles
from kyn_models.data.street_solids import marked, placed
from kyn_models.types import Float64Array

KNOT_M = 1.0
"""Spacing of the centre line's points along x."""
BEHIND_M, AHEAD_M = 40.0, 150.0
"""How far the built street reaches behind the first and ahead of the last frame."""
_STYLES = ("residential", "terraced", "avenue", "open")


@dataclass
class Mover:
    """A thing that drives or walks along the road: x = start + speed t, lateral d, turned round if speed < 0."""

    rows: Float64Array
    start_m: float
    lateral_m: float
    speed_mps: float
    height_m: float
    instance: int


@dataclass
class Layout:
    """A street in the making: road field arrays, rows of fixed solids, movers, names of the instances (0: none)."""

    rng: Generator
    drive_m: float
    style: str
    centre: Float64Array
    road: Float64Array
    pavement_m: tuple[float, float]
    verge_m: tuple[float, float]
    ego_lateral_m: float = 0.0
    rows: list[Float64Array] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)
    kinds: list[str] = field(default_factory=lambda: ["none"])

    @property
    def kerb_m(self) -> float:
        return float(self.road[4])

    def half_m(self, side: int) -> float:
        """Road's half width on a side: +1 left, -1 right."""
        return float(self.road[2] if side > 0 else self.road[3])

    def outside_m(self, side: int) -> float:
        """Distance from the centre line to the garden boundary."""
        index = 0 if side > 0 else 1
        return self.half_m(side) + self.verge_m[index] + self.pavement_m[index]

    def pose(self, x: float, d: float) -> tuple[float, float, float]:
        """World (x, y, heading of the road) at arc position x, lateral d."""
        u = min(max((x - self.road[0]) / KNOT_M, 0.0), len(self.centre) - 1.001)
        i = int(u)
        slope = (self.centre[i + 1] - self.centre[i]) / KNOT_M
        y = self.centre[i] + (u - i) * KNOT_M * slope + d * math.hypot(1.0, slope)
        return x, y, math.atan(slope)

    def put(self, kind: str, rows: Float64Array, x: float, d: float, turn: float = 0.0, z: float | None = None) -> None:
        """Place a fixed object; ``turn`` is relative to the road's heading, z None: on the pavement."""
        at_x, at_y, yaw = self.pose(x, d)
        self.kinds.append(kind)
        rows = marked(rows, len(self.kinds) - 1, int(self.rng.integers(1 << 30)))
        self.rows.append(placed(rows, at_x, at_y, self.kerb_m if z is None else z, yaw + turn))

    def free(self, x: float, margin: float, side: int) -> bool:
        """Whether x keeps ``margin`` metres clear of every side road on that side."""
        for j in range(int(self.road[6])):
            at, half, where, _ = self.road[8 + 4 * j : 12 + 4 * j]
            if where in (0, side) and abs(x - at) < half + margin:
                return False
        return True


def new_layout(rng: Generator, drive_m: float, style: str) -> Layout:
    """A bare road of the style (``any`` draws one): gently curved centre line, junctions, pavements."""
    if style == "any":
        style = str(rng.choice(_STYLES, p=(0.5, 0.2, 0.18, 0.12)))
    x = np.arange(-BEHIND_M - 40, drive_m + AHEAD_M + 120, KNOT_M)
    bend = rng.choice((0.0, 0.5, 1.0), p=(0.4, 0.35, 0.25))
    heading = np.zeros_like(x)
    for _ in range(2):
        heading += (
            bend * rng.uniform(0.03, 0.14) * np.sin(2 * math.pi * x / rng.uniform(90, 260) + rng.uniform(0, 6.28))
        )
    centre = np.cumsum(np.tan(heading)) * KNOT_M
    half = {"residential": (2.5, 3.6), "terraced": (2.8, 4.6), "avenue": (2.9, 4.5), "open": (2.6, 4.2)}[style]
    width = rng.uniform(*half)
    kerb = rng.uniform(0.04, 0.14)
    junctions: list[float] = []
    last = -1e9
    for at in np.sort(rng.uniform(8, drive_m + 90, int(rng.choice((0, 1, 2, 3), p=(0.3, 0.35, 0.25, 0.1))))):
        if at - last > 40:
            junctions += [at, rng.uniform(2.2, 3.6), float(rng.choice((-1, 0, 1))), rng.uniform(-0.15, 0.15)]
            last = at
    head = [x[0], KNOT_M, width, width, kerb, rng.uniform(3.0, 6.0), len(junctions) // 4, 0.0]
    walk = rng.uniform(1.3, 2.8)
    pavement = (walk, walk if rng.random() < 0.6 else rng.uniform(0.3, 2.5))
    verge = (0.0, 0.0)
    if style == "avenue" or rng.random() < 0.12:
        verge = (rng.uniform(1.2, 2.6), rng.uniform(1.2, 2.6))
    return Layout(rng, drive_m, style, centre, np.array(head + junctions), pavement, verge)


def _boundary(layout: Layout, side: int, x0: float, x1: float, d: float, choice: str, plant: dict[str, Any]) -> None:
    """Hedge, fence or wall from x0 to x1 along the garden's edge, in pieces short enough for the bend."""
    rng = layout.rng
    height = rng.uniform(0.7, 3.0) if choice == "hedge" else rng.uniform(0.5, 1.9)
    depth, style = rng.uniform(0.4, 1.1), int(rng.choice((0, 1, 2, 3), p=(0.3, 0.35, 0.2, 0.15)))
    if style == 3:
        height = min(height, 1.3)
    fence_seed = int(rng.integers(1 << 30))
    pieces = max(1, math.ceil((x1 - x0) / 7.0))
    for k in range(pieces):
        length = (x1 - x0) / pieces
        at = x0 + (k + 0.5) * length
        if choice == "hedge":
            rows = plants.hedge(rng, length + 0.05, height, depth, plant)
            layout.put("hedge", rows, at, side * (d + depth / 2))
        else:
            rows = buildings.fence(np.random.default_rng(fence_seed), length + 0.02, height, style)
            layout.put("fence", rows, at, side * (d + 0.15))


def _divide(layout: Layout, side: int, x: float, near: float, far: float, plant: dict[str, Any]) -> None:
    """Hedge or fence between two gardens, away from the road."""
    rng, length = layout.rng, far - near
    if rng.random() < 0.6:
        rows, kind = plants.hedge(rng, length, rng.uniform(0.8, 2.2), 0.6, plant), "hedge"
    else:
        rows, kind = buildings.fence(rng, length, rng.uniform(0.8, 1.8), int(rng.integers(3))), "fence"
    layout.put(kind, rows, x, side * (near + far) / 2, math.pi / 2)


def _garden(layout: Layout, side: int, x0: float, x1: float, near: float, far: float) -> None:
    """Trees and bushes of one lot between lateral distances near and far."""
    rng = layout.rng
    if far - near < 1.2:
        return
    for _ in range(rng.poisson(1.7 if layout.style != "terraced" else 0.4)):
        x, d = rng.uniform(x0 + 1, x1 - 1), rng.uniform(near + 0.8, far)
        if not layout.free(x, 2.0, side):
            continue
        height = rng.uniform(4.0, 14.0)
        grow = plants.conifer if rng.random() < 0.3 else plants.tree
        layout.put("tree", grow(rng, height), x, side * d)
    for _ in range(rng.poisson(1.8)):
        x, d = rng.uniform(x0 + 0.5, x1 - 0.5), rng.uniform(near + 0.6, far)
        if layout.free(x, 1.0, side):
            layout.put("bush", plants.bush(rng, rng.uniform(0.7, 2.4)), x, side * d)


def build_side(layout: Layout, side: int) -> None:
    """Lots along one side: garden boundary, garden, house or gap."""
    rng, style = layout.rng, layout.style
    edge = layout.outside_m(side)
    end = layout.drive_m + AHEAD_M
    x = -BEHIND_M + rng.uniform(0, 6)
    setback = rng.uniform(0.0, 1.5) if style == "terraced" else rng.uniform(2.0, 7.5)
    storeys = int(rng.integers(2, 5)) if style == "terraced" else int(rng.integers(1, 4))
    built = {"residential": 0.82, "terraced": 0.92, "avenue": 0.75, "open": 0.3}[style]
    odds = (0.05, 0.1, 0.85) if style == "terraced" and setback < 1.0 else (0.45, 0.3, 0.25)
    choice, plant = str(rng.choice(("hedge", "fence", "none"), p=odds)), plants.foliage(rng)
    while x < end:
        width = rng.uniform(7, 15) if style == "terraced" else rng.uniform(11, 23)
        x1 = x + width
        middle = (x + x1) / 2
        if not layout.free(middle, width / 2 + 1.5, side):
            x += 3.0
            continue
        if rng.random() < 0.45:
            choice = str(rng.choice(("hedge", "fence", "none"), p=odds))
            plant = plants.foliage(rng) if rng.random() < 0.5 else plant
        gate = x1 - rng.uniform(0.0, 4.0) * (rng.random() < 0.7)
        if choice != "none" and gate - x > 2:
            _boundary(layout, side, x, gate, edge + 0.1, choice, plant)
        front = edge + max(0.0, setback + rng.normal(0, 0.12 if style == "terraced" else 1.0))
        if rng.random() < built:
            gap = 0.0 if style == "terraced" and rng.random() < 0.8 else rng.uniform(1.0, 4.0)
            floors = int(np.clip(storeys + rng.integers(-1, 2) * (rng.random() < 0.5), 1, 5))
            rows = buildings.house(rng, width - gap, rng.uniform(7, 12), floors, bool(rng.random() < 0.8))
            layout.put("building", rows, middle, side * front, 0.0 if side > 0 else math.pi)
            if gap > 2.5 and rng.random() < 0.5:
                layout.put("building", buildings.garage(rng), x1, side * (front + 1.0), 0.0 if side > 0 else math.pi)
            _garden(layout, side, x, x1, edge + 0.8, front - 1.2)
            if choice != "none" and front - edge > 2.5 and rng.random() < 0.6:
                _divide(layout, side, x1, edge + 0.5, front + rng.uniform(0, 6), plant)
            if front - edge > 2.5 and rng.random() < 0.18:
                rows = buildings.terrace(rng, gate - x, front - edge)
                layout.put("terrace", rows, (x + gate) / 2, side * (edge + 0.5), 0.0 if side > 0 else math.pi)
            elif front - edge > 6.0 and rng.random() < 0.35:
                layout.put("car", vehicles.car(rng), gate - 1.3, side * (edge + 3.4), math.pi / 2)
        else:
            _garden(layout, side, x, x1, edge + 0.8, front + 9.0)
        x = x1


def build_background(layout: Layout) -> None:
    """Second row behind the houses, ends of side roads, and what closes the view at the end."""
    rng = layout.rng
    end = layout.drive_m + AHEAD_M
    for side in (1, -1):
        x = -BEHIND_M
        while x < end + 30:
            x += rng.uniform(5, 13)
            d = layout.outside_m(side) + rng.uniform(19, 45)
            pick = rng.random()
            if pick < 0.5 and layout.free(x, 5.0, side):
                layout.put("tree", plants.tree(rng, rng.uniform(7, 18), 35), x, side * d)
            elif pick < 0.8 and layout.free(x, 9.0, side):
                rows = buildings.house(rng, rng.uniform(9, 15), 9.0, int(rng.integers(1, 4)), True)
                layout.put("building", rows, x, side * d, 0.0 if side > 0 else math.pi)
        for x in np.arange(-BEHIND_M - 20, end + 120, 13.0) if rng.random() < 0.85 else ():
            d = layout.outside_m(side) + rng.uniform(75, 130)
            layout.put("tree", plants.grove(rng, rng.uniform(8, 17)), x + rng.uniform(-5, 5), side * d)
    for j in range(int(layout.road[6])):
        at, half, where, _ = layout.road[8 + 4 * j : 12 + 4 * j]
        for side in (1, -1):
            if where in (0, side):
                rows = buildings.house(rng, 14.0, 9.0, 2, True)
                layout.put("building", rows, at, side * rng.uniform(45, 75), 0.0 if side > 0 else math.pi)
                if rng.random() < 0.5:
                    spot = at + (half - 1.0) * rng.choice((-1, 1))
                    layout.put("car", vehicles.car(rng), spot, side * rng.uniform(14, 30), math.pi / 2, 0.0)
    if rng.random() < 0.75:
        for _ in range(7):
            layout.put("tree", plants.tree(rng, rng.uniform(6, 16), 35), end + rng.uniform(5, 40), rng.normal(0, 14))


def build_furniture(layout: Layout) -> None:
    """Street trees, lamps, signs and small things on pavements and verges."""
    rng = layout.rng
    end = layout.drive_m + AHEAD_M
    for side in (1, -1):
        near, index = layout.half_m(side), 0 if side > 0 else 1
        if layout.verge_m[index] > 0 or rng.random() < 0.15:
            step, height, off = rng.uniform(7, 16), rng.uniform(5, 13), max(0.6, layout.verge_m[index] / 2)
            seeds = int(rng.integers(1 << 30))
            for x in np.arange(-BEHIND_M + rng.uniform(0, step), end, step):
                if rng.random() < 0.88 and layout.free(x, 2.0, side):
                    alike = np.random.default_rng(seeds) if rng.random() < 0.3 else rng
                    layout.put("tree", plants.tree(alike, height * rng.uniform(0.8, 1.2)), x, side * (near + off))
        if rng.random() < 0.7:
            step, kind = rng.uniform(24, 40), int(rng.integers(1 << 30))
            for x in np.arange(-BEHIND_M + rng.uniform(0, step), end, step):
                turn = math.pi if side > 0 else 0.0
                if layout.free(x, 1.0, side):
                    layout.put("pole", buildings.lamp(np.random.default_rng(kind)), x, side * (near + 0.4), turn)
        for x in rng.uniform(-BEHIND_M, end, rng.poisson(end / 45)):
            if layout.free(x, 0.5, side):
                layout.put("sign", buildings.traffic_sign(rng), x, side * (near + rng.uniform(0.35, 0.7)), math.pi)
        for x in rng.uniform(-BEHIND_M, end, rng.poisson(end / 30)):
            if layout.free(x, 1.0, side):
                off = layout.outside_m(side) - rng.uniform(0.3, 0.7)
                layout.put("clutter", buildings.clutter(rng), x, side * off, rng.uniform(0, 6.28))


def build_parking(layout: Layout, traffic: float) -> None:
    """Rows of parked cars; decides where the own car drives between them (``ego_lateral_m``), then what moves."""
    rng = layout.rng
    bounds = [layout.half_m(1), layout.half_m(-1)]
    density = rng.choice((0.0, 0.15, 0.45, 0.85), p=(0.1, 0.35, 0.35, 0.2))
    for index, side in enumerate((1, -1)):
        half = layout.half_m(side)
        # How far the car's middle is from the kerb: on the road, half on the pavement, or beside the road.
        off = float(rng.choice((-1.0, 0.05, 0.9), p=(0.5, 0.35, 0.15)))
        if rng.random() < 0.2 or density == 0.0:
            continue
        if half + off - 1.0 + bounds[1 - index] < 4.2:
            off = max(off, 0.05)
        if half + off - 1.0 + bounds[1 - index] < rng.uniform(3.7, 4.2):
            continue
        facing = 0.0 if side < 0 or rng.random() < 0.3 else math.pi
        height = {-1.0: 0.0, 0.05: 0.5 * layout.kerb_m, 0.9: layout.kerb_m}[off]
        x, used = -BEHIND_M + rng.uniform(0, 8), False
        while x < layout.drive_m + AHEAD_M:
            if rng.random() < density and layout.free(x, 5.0, side):
                rows, kind = (vehicles.van(rng), "van") if rng.random() < 0.08 else (vehicles.car(rng), "car")
                turn = facing + (math.pi if rng.random() < 0.12 else 0.0) + rng.normal(0, 0.015)
                layout.put(kind, rows, x, side * (half + off + rng.normal(0, 0.06)), turn, height)
                used = True
                x += rng.uniform(5.6, 7.5)
            else:
                x += rng.uniform(4, 14)
        if used:
            bounds[index] = min(half, half + off - 1.0)
    left, right = bounds[0], -bounds[1]
    if left - right > 5.4:
        layout.ego_lateral_m = right + rng.uniform(1.35, min(2.0, (left - right) / 2 - 0.9))
    else:
        layout.ego_lateral_m = (left + right) / 2 + rng.uniform(-0.15, 0.15)
    _traffic(layout, left, right, traffic)


def _move(layout: Layout, kind: str, rows: Float64Array, start: float, d: float, speed: float, z: float) -> None:
    layout.kinds.append(kind)
    instance = len(layout.kinds) - 1
    rows = marked(rows, instance, int(layout.rng.integers(1 << 30)))
    layout.movers.append(Mover(rows, start, d, speed, z, instance))


def _traffic(layout: Layout, left: float, right: float, traffic: float) -> None:
    """Oncoming and leading vehicles where the road is wide enough for them, cyclists, people on the pavements.

    traffic: how much of it, 1 as most streets have it.
    """
    rng, ego = layout.rng, layout.ego_lateral_m

    def happens(usual: float) -> bool:
        return bool(rng.random() < 1 - (1 - usual) ** traffic)

    if left - ego > 3.1 and happens(0.65):
        x = rng.uniform(5, 60)
        for _ in range(int(rng.integers(1, 4))):
            rows = vehicles.van(rng) if rng.random() < 0.15 else vehicles.car(rng)
            _move(layout, "car", rows, x, min(left - 1.1, ego + 3.2), -rng.uniform(5, 13), 0.0)
            x += rng.uniform(12, 50)
    if happens(0.35):
        _move(layout, "car", vehicles.car(rng), rng.uniform(9, 45), ego, 12.5 * rng.uniform(1.0, 1.2), 0.0)
    if left - ego > 1.9 and happens(0.3):
        _move(layout, "cyclist", vehicles.cyclist(rng), rng.uniform(12, 80), left - 0.45, -rng.uniform(3, 6), 0.0)
    if ego - right > 1.9 and happens(0.25):
        _move(layout, "cyclist", vehicles.cyclist(rng), rng.uniform(10, 60), right + 0.4, rng.uniform(3, 6), 0.0)
    for _ in range(rng.poisson(2.5 * traffic)):
        side = int(rng.choice((1, -1)))
        d = side * (layout.outside_m(side) - rng.uniform(0.25, 0.9))
        x, speed = rng.uniform(-10, layout.drive_m + 60), rng.choice((-1, 1)) * rng.uniform(0.8, 1.7)
        if rng.random() < 0.25:
            layout.put("person", vehicles.person(rng), x, d, rng.uniform(0, 6.28))
        else:
            _move(layout, "person", vehicles.person(rng, 0.35), x, d, speed, layout.kerb_m)
