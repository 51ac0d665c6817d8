"""The cost volume: the authors' numbers, a wall found where it stands, and what counts as seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from torch import Tensor

from kyn_models.networks.plane_sweep import (
    best_depth,
    cost_volume,
    matching_cost,
    pseudo_cost,
    sweep_depths,
    sweep_grid,
)

HEIGHT, WIDTH = 48, 96
K = torch.tensor([[[80.0, 0.0, 47.0], [0.0, 82.0, 23.0], [0.0, 0.0, 1.0]]])
OTHER_K = torch.tensor([[[70.0, 0.0, 50.0], [0.0, 71.0, 20.0], [0.0, 0.0, 1.0]]])
DEPTHS = sweep_depths(2.0, 40.0, 16, K)
WALL = 11
"""Index of the plane on which the wall stands."""


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> Tensor:
    """(1, 4, 4) neighbour_from_key of a neighbour at (x, y, z) in the key camera's axes, turned about y."""
    pose = torch.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    pose[:3, :3] = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    pose[:3, 3] = -pose[:3, :3] @ torch.tensor([x, y, z])
    return pose[None]


def picture(key_from_camera: Tensor, k: Tensor, depth: float) -> Tensor:
    """(1, 3, H, W) of a painted wall at ``depth`` in the key camera's axes, as another camera sees it.

    Pixels lie where the sweep reads them: as published it takes x for x W / (W - 1) - 1/2.
    """
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    u, v = (u + 0.5) * (WIDTH - 1) / WIDTH, (v + 0.5) * (HEIGHT - 1) / HEIGHT
    rays = torch.stack([(u - k[0, 0, 2]) / k[0, 0, 0], (v - k[0, 1, 2]) / k[0, 1, 1], torch.ones_like(u)], dim=-1)
    rays = rays @ key_from_camera[0, :3, :3].T
    origin = key_from_camera[0, :3, 3]
    x, y, _ = (origin + rays * ((depth - origin[2]) / rays[..., 2:])).unbind(-1)
    waves = [(9.1, 3.7), (-4.3, 8.2), (6.0, -7.7)]
    return torch.stack([0.4 * torch.sin(a * x + b * y + a) for a, b in waves])[None]


def seen_from(pose: Tensor, k: Tensor = K, depth: float | None = None) -> Tensor:
    return picture(torch.linalg.inv(pose), k, float(DEPTHS[WALL]) if depth is None else depth)


def key_frame() -> Tensor:
    """The key frame's own pixels are read where they are."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    depth = float(DEPTHS[WALL])
    x, y = (u - K[0, 0, 2]) / K[0, 0, 0] * depth, (v - K[0, 1, 2]) / K[0, 1, 1] * depth
    return torch.stack([0.4 * torch.sin(a * x + b * y + a) for a, b in [(9.1, 3.7), (-4.3, 8.2), (6.0, -7.7)]])[None]


def volume(*neighbours: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """neighbours: image, pose and camera of each."""
    images, poses, cameras = (torch.stack(parts, dim=1) for parts in zip(*neighbours, strict=True))
    return cost_volume(key_frame(), K, images, poses, cameras, DEPTHS)


def share_right(cost: Tensor) -> float:
    found = best_depth(cost, DEPTHS)
    assert torch.isfinite(found).float().mean() > 0.3
    return float((found == DEPTHS[WALL])[torch.isfinite(found)].float().mean())


def test_the_authors_cost_volume(golden: Path) -> None:
    with np.load(golden / "dymultidepth" / "case0_resnet18.npz") as case:
        image, frames = (torch.from_numpy(case[name].astype(np.float32)) / 255 - 0.5 for name in ("keyframe", "frames"))
        poses, key = torch.from_numpy(case["poses"]), torch.from_numpy(case["keyframe_pose"])
        k, frame_k = (torch.from_numpy(case[name])[..., :3, :3][None] for name in ("intrinsics", "frame_intrinsics"))
        expected = torch.from_numpy(case["cost_volume_sub"])
    depths = sweep_depths(1 / 0.33, 400.0, 32, k)
    assert depths[0] == pytest.approx(400.0) and depths[-1] == pytest.approx(1 / 0.33)
    arguments = image.permute(2, 0, 1)[None], k, frames.permute(0, 3, 1, 2)[None]
    found = cost_volume(*arguments, (torch.linalg.inv(poses) @ key)[None], frame_k, depths)[0, :, ::8, ::8]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "pose, k",
    [
        (moved(x=0.54), K),
        (moved(x=-0.54), OTHER_K),
        (moved(z=0.5, x=0.2), K),
        (moved(x=0.4, yaw=0.06), K),
        (moved(y=0.3, z=-0.6), OTHER_K),
    ],
    ids=["stereo", "stereo of another camera", "ahead", "turned", "behind, another camera"],
)
def test_a_wall_is_found_where_it_stands(pose: Tensor, k: Tensor) -> None:
    assert share_right(volume((seen_from(pose, k), pose, k))) > 0.97
    assert share_right(volume((seen_from(pose, k), torch.linalg.inv(pose), k))) < 0.5
    shifted = k + torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    assert share_right(volume((seen_from(pose, k), pose, shifted))) < 0.6


def test_the_depth_follows_the_scale_of_the_poses() -> None:
    pose = moved(x=0.4)
    further = pose.clone()
    further[:, :3, 3] *= DEPTHS[WALL - 3] / DEPTHS[WALL]
    found = best_depth(volume((seen_from(pose), further, K)), DEPTHS)
    assert (found == DEPTHS[WALL - 3])[torch.isfinite(found)].float().mean() > 0.9


def test_pixels_are_projected_as_a_camera_does() -> None:
    pose = moved(x=0.3, z=0.5, yaw=0.1)
    grid = sweep_grid(K, pose, OTHER_K, DEPTHS, HEIGHT, WIDTH)
    assert grid.shape == (1, 16, HEIGHT, WIDTH, 2)
    for plane, row, column in ((0, 3, 90), (9, 40, 20), (15, 24, 48)):
        ray = torch.linalg.inv(K[0].double()) @ torch.tensor([column, row, 1.0], dtype=torch.float64)
        point = pose[0].double() @ torch.cat([ray * DEPTHS[plane], torch.ones(1)])
        pixel = OTHER_K[0].double() @ point[:3]
        expected = 2 * (pixel[:2] / pixel[2]) / torch.tensor([WIDTH - 1, HEIGHT - 1]) - 1
        torch.testing.assert_close(grid[0, plane, row, column].double(), expected, rtol=0, atol=1e-5)
    assert grid.abs().max() <= 2.0


def test_a_pixel_counts_only_if_it_is_seen_on_all_planes() -> None:
    pose = moved(x=0.54)
    cost = volume((seen_from(pose), pose, K))
    unseen = (cost == 0).all(dim=1)[0]
    # A neighbour to the right has the nearest plane 0.54 * 80 / 2 = 21.6 pixels further left.
    assert unseen[:, :23].all() and not unseen[3:-3, 26:-3].any()
    assert unseen[:2].all() and unseen[-2:].all() and unseen[:, -2:].all()
    assert torch.equal(torch.isnan(best_depth(cost, DEPTHS))[0], unseen)
    found, seen = matching_cost(key_frame(), seen_from(pose), sweep_grid(K, pose, K, DEPTHS, HEIGHT, WIDTH))
    assert torch.equal(seen[0, 0] == 0, unseen) and found.min() >= 0 and found.max() <= 1


def test_neighbours_complement_each_other_in_any_order() -> None:
    right, left = moved(x=0.54), moved(x=-0.54)
    parts = [(seen_from(pose), pose, K) for pose in (right, left)]
    both, swapped = volume(*parts), volume(*parts[::-1])
    torch.testing.assert_close(both, swapped, rtol=0, atol=1e-6)
    assert not (both == 0).all(dim=1)[0, 3:-3, 3:-3].any()
    only_right = (volume(parts[1]) == 0).all(dim=1)[0]
    alone = volume(parts[0])
    torch.testing.assert_close(both[0, :, only_right], alone[0, :, only_right], rtol=0, atol=1e-5)


def test_a_neighbour_that_prefers_no_plane_says_nothing() -> None:
    pose = moved(x=0.54)
    good, flat = (seen_from(pose), pose, K), (torch.full((1, 3, HEIGHT, WIDTH), 0.1), pose, K)
    torch.testing.assert_close(volume(good, flat), volume(good), rtol=0, atol=1e-3)


def test_items_of_a_batch_are_apart() -> None:
    poses = torch.cat([moved(x=0.54), moved(x=-0.3, z=0.4)])
    images = torch.cat([seen_from(pose[None], k) for pose, k in zip(poses, (K, OTHER_K), strict=True)])
    keys = torch.cat([key_frame(), key_frame().flip(1)])
    ks, others = K.repeat(2, 1, 1), torch.cat([K, OTHER_K])
    together = cost_volume(keys, ks, images[:, None], poses[:, None], others[:, None], DEPTHS)
    for item in range(2):
        one = slice(item, item + 1)
        alone = cost_volume(keys[one], K, images[one, None], poses[one, None], others[one, None], DEPTHS)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


def test_a_depth_map_as_a_volume() -> None:
    depths = torch.tensor([400.0, 20.0, 10.0, 4.0])
    depth = torch.tensor([80.0, 14.9, 15.1, 3.0]).view(1, 1, 2, 2)  # nearest in metres: 80 is nearer to 20 than to 400
    found = pseudo_cost(depth, depths)
    assert found.shape == (1, 4, 2, 2) and (found.sum(dim=1) == 1).all()
    assert found.argmax(dim=1).flatten().tolist() == [1, 2, 1, 3]
