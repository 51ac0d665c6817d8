"""The compiled cost volume against the plain one, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is plain torch")
pytest.importorskip("numba", reason="the loops need numba")

from kyn_models.networks.plane_sweep import best_depth, cost_volume, sweep_depths
from kyn_models.runtimes.sweep import CompiledSweep, Swept
from kyn_models.runtimes.sweep_loops import rows_of_bands

AGREES = 1e-4
"""Of the volume, whose values lie in -1..1."""
ON_THE_EDGE = 2
"""Pixels that rounding may put on the other side of a neighbour's border, or of preferring no plane at all."""


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """(4, 4) neighbour_from_key of a neighbour at (x, y, z) in the key camera's axes, turned about y."""
    c, s = np.cos(yaw), np.sin(yaw)
    found = np.eye(4)
    found[:3, :3] = [[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]]
    found[:3, 3] = -found[:3, :3] @ [x, y, z]
    return found


def smooth(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """(count, H, W, 3) uint8 pictures with large and small things in them."""
    small = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3))
    large = np.kron(small, np.ones((1, 4, 4, 1)))[:, :height, :width]
    return np.clip(large + rng.normal(0, 12, large.shape), 0, 255).astype(np.uint8)


class Case:
    """Random pictures of a size and the places of the neighbours; ``plain`` and ``compiled`` answers."""

    def __init__(self, height: int, width: int, *poses: np.ndarray, planes: int = 8) -> None:
        rng = np.random.default_rng(height * width)
        self.image, self.neighbours = smooth(rng, 1, height, width)[0], smooth(rng, len(poses), height, width)
        self.k = np.array([[0.9 * width, 0, 0.47 * width], [0, 0.92 * width, 0.51 * height], [0, 0, 1]], np.float32)
        self.neighbour_k = np.stack([self.k + np.float32(2 * n) * np.eye(3, k=2, dtype=np.float32) for n in range(2)])
        self.neighbour_k = self.neighbour_k[: len(poses)]
        self.poses = np.stack(poses).astype(np.float32)
        self.depths = sweep_depths(2.0, 60.0, planes, torch.zeros(1))

    def compiled(self) -> Swept:
        sweep = CompiledSweep(*self.image.shape[:2], self.depths.numpy())
        sweep(255 - self.image, self.neighbours, self.k, self.neighbour_k, self.poses)  # nothing of it is left
        return sweep(self.image, self.neighbours, self.k, self.neighbour_k, self.poses)

    def plain(self) -> Swept:
        key, others = (
            torch.from_numpy(np.moveaxis(images, -1, -3).astype(np.float32))[None] / 255 - 0.5
            for images in (self.image, self.neighbours)
        )
        k, cameras, poses = (torch.from_numpy(x)[None] for x in (self.k, self.neighbour_k, self.poses))
        cost = cost_volume(key, k, others, poses, cameras, self.depths)
        return Swept(cost[0].numpy(), best_depth(cost, self.depths)[0].numpy())


def assert_same(found: Swept, expected: Swept) -> None:
    wrong = ~(np.abs(found.volume - expected.volume) <= AGREES).all(axis=0)
    assert wrong.sum() <= ON_THE_EDGE, f"{wrong.sum()} pixels"
    assert np.isfinite(found.volume).all()
    unseen = np.isnan(expected.matched_m)
    assert (np.isnan(found.matched_m) != unseen).sum() <= ON_THE_EDGE
    both = ~unseen & ~np.isnan(found.matched_m)
    # Another plane only where it matches as well.
    other = both & (found.matched_m != expected.matched_m)
    best = np.sort(expected.volume, axis=0)[-2:]
    assert (other & (best[1] - best[0] > 2 * AGREES)).sum() <= ON_THE_EDGE


AHEAD, BEHIND, ASIDE = pose(z=0.5, x=0.05), pose(z=-0.6, yaw=0.02), pose(x=0.54)


@pytest.mark.parametrize(
    "height, width, poses",
    [
        (48, 96, (AHEAD, BEHIND)),
        (64, 80, (ASIDE,)),
        (37, 53, (pose(y=0.3, yaw=-0.05), BEHIND)),
        (5, 6, (pose(),)),
        (21, 130, (ASIDE, pose(x=-0.54))),
    ],
    ids=["before and after", "stereo", "odd size", "smallest", "left and right"],
)
def test_the_numbers_of_the_plain_one(height: int, width: int, poses: tuple[np.ndarray, ...]) -> None:
    case = Case(height, width, *poses)
    expected = case.plain()
    assert height < 10 or np.ptp(expected.volume) > 0.5, "a flat volume proves nothing"
    assert_same(case.compiled(), expected)


def test_planes_of_any_number() -> None:
    case = Case(32, 48, ASIDE, planes=2)
    assert_same(case.compiled(), case.plain())
    case = Case(32, 48, AHEAD, BEHIND, planes=33)
    assert_same(case.compiled(), case.plain())


@pytest.mark.parametrize("height, threads, rows", [(256, 2, 32), (256, 12, 21), (256, 1, 32), (5, 8, 1), (37, 2, 17)])
def test_threads_have_as_much_to_do(height: int, threads: int, rows: int) -> None:
    assert rows_of_bands(height, threads) == rows


def test_a_neighbour_that_sees_nothing_changes_nothing() -> None:
    away = pose(yaw=np.pi / 2)
    case = Case(48, 96, AHEAD, away)
    found = case.compiled()
    assert_same(found, case.plain())
    case.neighbours, case.neighbour_k, case.poses = case.neighbours[:1], case.neighbour_k[:1], case.poses[:1]
    assert_same(found, case.plain())
    alone = Case(48, 96, away)
    assert (alone.compiled().volume == 0).all() and np.isnan(alone.compiled().matched_m).all()
    assert_same(alone.compiled(), alone.plain())


@pytest.mark.parametrize("place", [pose(z=5.0), pose(z=80.0), pose(yaw=np.pi), pose(x=0.1, z=2.0, yaw=0.4)])
def test_planes_behind_a_neighbour(place: np.ndarray) -> None:
    """As published, what lies behind it is not told from what lies in front."""
    case = Case(48, 96, place, AHEAD)
    assert_same(case.compiled(), case.plain())


def test_poses_that_are_no_numbers_are_never_read() -> None:
    case = Case(48, 96, np.full((4, 4), np.nan))
    assert (case.compiled().volume == 0).all()
    case = Case(48, 96, pose(x=1e30))
    assert np.isfinite(case.compiled().volume).all()


def test_the_same_neighbour_twice_is_the_same() -> None:
    once, twice = Case(48, 96, AHEAD), Case(48, 96, AHEAD, AHEAD)
    twice.image, twice.neighbours = once.image, np.concatenate([once.neighbours] * 2)
    twice.neighbour_k = np.concatenate([once.neighbour_k] * 2)
    np.testing.assert_allclose(twice.compiled().volume, once.compiled().volume, atol=1e-6)


def test_the_authors_cost_volume(golden: Path) -> None:
    with np.load(golden / "dymultidepth" / "case0_resnet18.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    poses = torch.linalg.inv(torch.from_numpy(arrays["poses"])) @ torch.from_numpy(arrays["keyframe_pose"])
    cameras = arrays["intrinsics"][:3, :3], arrays["frame_intrinsics"][:, :3, :3]
    sweep = CompiledSweep(256, 512, sweep_depths(1 / 0.33, 400.0, 32, poses).numpy())
    found = sweep(arrays["keyframe"], arrays["frames"], *cameras, poses.numpy()).volume[:, ::8, ::8]
    np.testing.assert_allclose(found, arrays["cost_volume_sub"][...].reshape(found.shape), rtol=0, atol=2e-4)
