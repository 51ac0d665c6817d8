"""Every way to compare pixels against the authors' formulas in plain numpy, one pixel and one plane after the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from kyn_models.networks.plane_sweep import Matching, best_depth, cost_volume, sweep_depths

HEIGHT, WIDTH = 14, 20
DEPTHS = sweep_depths(2.0, 30.0, 5, torch.zeros(1)).numpy().astype(np.float64)
K = np.array([[16.0, 0.0, 9.0], [0.0, 15.0, 6.5], [0.0, 0.0, 1.0]])


def scene() -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Key frame, two neighbours (H, W, 3) in -0.5..0.5 and their neighbour_from_key."""
    rng = np.random.default_rng(8)
    images = [rng.uniform(-0.5, 0.5, (HEIGHT, WIDTH, 3)).astype(np.float32).astype(np.float64) for _ in range(3)]
    poses = [np.eye(4), np.eye(4)]
    poses[0][:3, 3] = -0.4, 0.02, 0.1
    poses[1][:3, 3] = 0.3, 0.0, -0.2
    return images[0], images[1:], poses


def read(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear, zeros outside; x and y in pixels, the middle of the first one is 0."""
    left, top = int(np.floor(x)), int(np.floor(y))
    found = np.zeros(image.shape[2])
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < HEIGHT and 0 <= column < WIDTH:
            found += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return found


def warped(image: np.ndarray, pose: np.ndarray, depth: float) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH, image.shape[2]))
    for v, u in np.ndindex(HEIGHT, WIDTH):
        p = K @ (pose[:3, :3] @ (np.linalg.inv(K) @ (u, v, 1.0) * depth) + pose[:3, 3])
        # As published: divided by size - 1, read as if by size.
        x, y = ((p[0] / p[2]) / (WIDTH - 1)) * WIDTH - 0.5, ((p[1] / p[2]) / (HEIGHT - 1)) * HEIGHT - 0.5
        found[v, u] = read(image, x, y)
    return found


def window(values: np.ndarray, v: int, u: int) -> np.ndarray:
    """The 3x3 pixels around one, mirrored at the edges without repeating them."""
    rows = [abs(v + d) if v + d < HEIGHT else 2 * HEIGHT - 2 - v - d for d in (-1, 0, 1)]
    columns = [abs(u + d) if u + d < WIDTH else 2 * WIDTH - 2 - u - d for d in (-1, 0, 1)]
    return values[np.ix_(rows, columns)].reshape(9, -1)


def ssim_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = np.zeros(a.shape)
    for v, u in np.ndindex(HEIGHT, WIDTH):
        x, y = window(a, v, u), window(b, v, u)
        mx, my = x.mean(0), y.mean(0)
        above = (2 * mx * my + 1e-4) * (2 * ((x * y).mean(0) - mx * my) + 9e-4)
        below = (mx**2 + my**2 + 1e-4) * (x.var(0) + y.var(0) + 9e-4)
        found[v, u] = np.clip((1 - above / below) / 2, 0, 1)
    return found


def box(values: np.ndarray, side: int) -> np.ndarray:
    """Mean over side x side pixels, with zeros beyond the image."""
    half = side // 2
    padded = np.pad(values, ((half, half), (half, half), (0, 0)))
    return sum(padded[r : r + HEIGHT, c : c + WIDTH] for r, c in np.ndindex(side, side)) / side**2


def difference(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if kind == "ssim":
        return ssim_distance(a + 0.5, b + 0.5)
    if kind == "ssim_absolute":
        return 0.85 * ssim_distance(a + 0.5, b + 0.5) + 0.15 * np.abs(a - b)
    return box(np.abs(a - b), 3) if kind == "absolute_mean" else np.abs(a - b)


def by_hand(matching: Matching, image: np.ndarray, neighbours: list[np.ndarray], poses: list[np.ndarray]) -> np.ndarray:
    """(D, H, W) with the authors' formulas."""
    border = matching.patch // 2 + 1
    inner = np.zeros((HEIGHT, WIDTH, 1))
    inner[border:-border, border:-border] = 1
    total = weights = 0.0
    for neighbour, pose in zip(neighbours, poses, strict=True):
        costs, within = [], []
        for depth in DEPTHS:
            mixed = difference(matching.difference, warped(neighbour, pose, depth), image) @ (5 / 32, 16 / 32, 11 / 32)
            costs.append(box(mixed[..., None], matching.patch)[..., 0])
            within.append(warped(inner, pose, depth)[..., 0] != 0)
        cost, seen = np.stack(costs), inner[..., 0] * np.stack(within)
        if matching.seen == "all_planes":
            seen = np.broadcast_to(seen.min(axis=0), seen.shape)
        alike = np.exp(-10 * (cost - cost.min(axis=0)) ** 2).sum(axis=0)
        weight = (1 - (alike - 1) / (len(DEPTHS) - 1)) * seen
        total, weights = total + cost * weight, weights + weight
    return np.where(weights > 0, 1 - 2 * total / np.where(weights > 0, weights, 1), 0)


def found(matching: Matching, image: np.ndarray, neighbours: list[np.ndarray], poses: list[np.ndarray]) -> np.ndarray:
    key = torch.from_numpy(image).permute(2, 0, 1)[None]
    others = torch.from_numpy(np.stack(neighbours)).permute(0, 3, 1, 2)[None]
    k = torch.from_numpy(K)[None]
    pose = torch.from_numpy(np.stack(poses))[None]
    ks = k[:, None].expand(-1, len(poses), -1, -1)
    return cost_volume(key, k, others, pose, ks, torch.from_numpy(DEPTHS), matching)[0].numpy()


@pytest.mark.parametrize(
    "matching",
    [
        Matching(),
        Matching("absolute"),
        Matching("ssim_absolute"),
        Matching("absolute_mean"),
        Matching(patch=1),
        Matching("absolute", patch=5),
        Matching(seen="each_plane"),
    ],
    ids=str,
)
def test_each_way_is_that_of_the_authors(matching: Matching) -> None:
    ours, theirs = found(matching, *scene()), by_hand(matching, *scene())
    assert 0.2 < (theirs != 0).mean() < 0.95 and theirs.std() > 0.02
    # At the border of a neighbour rounding decides whether it is still seen.
    assert np.mean(np.abs(ours - theirs) > 2e-4) < 0.01
    if matching != Matching():
        assert np.mean(np.abs(theirs - by_hand(Matching(), *scene())) > 1e-2) > 0.05


def test_one_neighbour_gives_its_own_volume() -> None:
    """The authors' single-frame volumes: 1 - 2 cost, times the mask of what is seen on all planes."""
    image, neighbours, poses = scene()
    for neighbour, pose in zip(neighbours, poses, strict=True):
        costs = [
            box(difference("ssim", warped(neighbour, pose, depth), image) @ np.array([[5], [16], [11]]) / 32, 3)[..., 0]
            for depth in DEPTHS
        ]
        ours = found(Matching(), image, [neighbour], [pose])
        seen = (ours != 0).all(axis=0)
        assert 0.1 < seen.mean() < 0.9
        np.testing.assert_allclose(ours[:, seen], (1 - 2 * np.stack(costs))[:, seen], atol=1e-4)
        each = found(Matching(seen="each_plane"), image, [neighbour], [pose])
        np.testing.assert_array_equal(each[:, seen], ours[:, seen])
        # A neighbour loses sight of pixels on near planes first: far ones go on counting.
        more = (each != 0) & ~seen
        assert more[0].sum() > more[-1].sum() >= 0 and more[0].sum() > 10
        assert best_depth(torch.from_numpy(each)[None], torch.from_numpy(DEPTHS)).isnan().any()


@pytest.mark.parametrize("patch", [0, 2, -1])
def test_patches_have_a_middle(patch: int) -> None:
    with pytest.raises(ValueError, match=f"matching.patch: got {patch}, expected an odd number"):
        Matching(patch=patch)
