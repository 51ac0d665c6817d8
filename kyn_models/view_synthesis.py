"""Self-supervision as published: a density field is right if it explains some views by the colours of others. torch.

The field of the key frame is rendered along rays of *loss views*; colours come from *render views*, never from the
network (Wimbauer et al., Behind the Scenes, CVPR 2023, section 3.3; Li et al., Know Your Neighbors, CVPR 2024, trains
the same way). All geometry is in the key frame's optical axes; depths along training rays are distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from kyn_models import losses, render
from kyn_models.data.frame_cache import ViewItems, Views
from kyn_models.geometry import View, sample_colours
from kyn_models.train import Batch

SampleMode = Literal["default", "only", "not", "stereo", "mono", "kitti360-mono"]
InvalidPolicy = Literal["weight_guided", "weight_guided_diverse", "strict", "none"]


@dataclass(frozen=True)
class ViewLossConfig:
    """Options of the published trainings, with their values for KITTI-360.

    images: key frames per step. rays: per key frame, in square patches of ``patch`` pixels over all loss views.
    samples: per ray, stratified in disparity. hard_cap: the last sample takes all light that is left.
    sample_mode: how views are divided into loss and render views, see ``divide_views``; views_rendered: how many give
    colours in the modes default, only and not. invalid: which rays count, see ``invalid_rays``.
    colour, smoothness: weights of the colour error and of the edge-aware smoothness; the authors' code adds the errors
    of a coarse and a fine rendering, which are one where there is no fine one: hence 2.
    points_per_call: for fields whose points attend to each other, how many of an image's do so at a time (0: all); the
    authors' renderer takes 100,000 points at a time over all images of a process.
    flip: encode half of the batches mirrored. jitter: one random change of colours per item. corners: rays start at the
    outer edges of the image as published, instead of at pixel centres; the two differ by up to half a pixel.
    """

    images: int = 16
    rays: int = 4096
    patch: int = 8
    samples: int = render.SAMPLES
    hard_cap: bool = True
    sample_mode: SampleMode = "kitti360-mono"
    views_rendered: int = 2
    invalid: InvalidPolicy = "weight_guided"
    colour: float = 2.0
    smoothness: float = 0.001
    points_per_call: int = 0
    flip: bool = True
    jitter: bool = True
    corners: bool = True

    def __post_init__(self) -> None:
        if self.rays < self.patch**2 or self.rays % self.patch**2:
            raise ValueError(
                f"view_loss.rays: got {self.rays}, expected a multiple of {self.patch}x{self.patch} pixels"
            )
        if min(self.images, self.samples - 1, self.views_rendered) < 1 or self.patch < 3:
            raise ValueError(
                f"view_loss: got images {self.images}, samples {self.samples}, views_rendered {self.views_rendered}, "
                f"patch {self.patch}, expected at least 1, 2, 1 and 3"
            )


def frames_batch(items: ViewItems, config: ViewLossConfig, seed: int, step: int, share: slice = slice(None)) -> Batch:
    """The batch of a step: a function of (seed, step) alone. share: which of its images this process takes.

    images (B, V, 3, H, W) -1..1, the key frame first; k_norm (B, V, 3, 3); key_from_camera (B, V, 4, 4);
    loss_views (L,), render_views (R,) of the step; flip () bool; origins, directions (B, N, 3), in the key frame's
    axes; truth (B, N, 3) colours 0..1, all by patches; seeds (B,) int64 of the random depths; items (B,).
    """
    rng = np.random.default_rng((seed, step))
    chosen = epoch_items(len(items), config.images, seed, step)
    flip = config.flip and bool(rng.uniform() < 0.5)
    draws = rng.integers(0, 2**62, config.images)
    views = [items[int(index)] for index in chosen[share]]
    loss_views, render_views = divide_views(len(views[0].images), config, rng)
    parts = [
        _item(item, loss_views, config, np.random.default_rng(int(draw)))
        for item, draw in zip(views, draws[share], strict=True)
    ]
    batch = {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in parts[0]}
    batch["seeds"] = torch.from_numpy(draws[share])
    batch["items"] = torch.from_numpy(chosen[share])
    batch["loss_views"], batch["render_views"] = torch.tensor(loss_views), torch.tensor(render_views)
    batch["flip"] = torch.tensor(flip)
    return batch


def epoch_items(count: int, images: int, seed: int, step: int) -> np.ndarray:
    """(images,) items of a step: every epoch takes all ``count`` of them once, each in an order of its own."""
    places = np.arange(step * images, (step + 1) * images)
    epochs, places = places // count, places % count
    return np.array(
        [_epoch_order(count, seed, int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)],
        dtype=np.int64,
    )


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """(count,) the items in the order of an epoch; kept, as RealEstate10K has 25 million of them."""
    return np.random.default_rng((seed, epoch, 1)).permutation(count)


def divide_views(count: int, config: ViewLossConfig, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """(loss views, render views) of a step, indices into the item's views; the key frame is 0.

    default: ``views_rendered`` at random give colours, the others are explained. only: the key frame is explained by
    random others (by fewer in the authors' code where the key frame is among those drawn). not: random others are
    explained by the rest. stereo: views come camera by camera for two cameras; one camera is explained by the other.
    mono: of both cameras every other time step is explained by the rest, the second camera the other way round.
    kitti360-mono: the same for four cameras.
    Raises ``ValueError`` if there are too few views for the mode.
    """
    mode, order = config.sample_mode, rng.permutation(count)
    least = {"default": config.views_rendered + 1, "only": 2, "not": 2, "stereo": 2, "mono": 4, "kitti360-mono": 8}[
        mode
    ]
    if count < least:
        raise ValueError(f"view_loss.sample_mode {mode}: got items with {count} views, expected at least {least}")
    if mode == "default":
        rendered = sorted(int(view) for view in order[: config.views_rendered])
        return [view for view in range(count) if view not in rendered], rendered
    if mode == "only":
        others = [int(view) for view in order if view != 0][: config.views_rendered]
        return [0], sorted(others)
    if mode == "not":
        explained = sorted(int(view) + 1 for view in rng.permutation(count - 1)[: config.views_rendered])
        return explained, [view for view in range(count) if view not in explained]
    cameras = 4 if mode == "kitti360-mono" else 2
    if count % cameras:
        raise ValueError(
            f"view_loss.sample_mode {mode}: got items with {count} views, expected a multiple of {cameras}"
        )
    steps, begin = count // cameras, int(order[0] >= count // 2)
    if mode == "stereo":
        explained = list(range(begin * steps, (begin + 1) * steps))
    else:
        first_steps = [(begin + camera) % 2 for camera in range(cameras)]
        explained = [
            camera * steps + step for camera in range(cameras) for step in range(first_steps[camera], steps, 2)
        ]
    return explained, [view for view in range(count) if view not in explained]


def _item(
    views: Views, loss_views: Sequence[int], config: ViewLossConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Arrays of one item: images, cameras, and the rays of its patches with their true colours."""
    images = views.images.astype(np.float32) / 255
    if config.jitter:
        images = jitter_colours(images, rng)
    _, height, width, _ = images.shape
    count = config.rays // config.patch**2
    view = np.asarray(loss_views)[rng.integers(0, len(loss_views), count)]
    # The last row and column begin no patch, as published.
    top, left = rng.integers(0, height - config.patch, count), rng.integers(0, width - config.patch, count)
    inside = np.arange(config.patch)
    rows = np.broadcast_to((top[:, None] + inside)[:, :, None], (count, config.patch, config.patch)).reshape(count, -1)
    columns = np.broadcast_to((left[:, None] + inside)[:, None], (count, config.patch, config.patch)).reshape(count, -1)
    uv = np.stack([_normalised(columns, width, config.corners), _normalised(rows, height, config.corners)], axis=-1)
    k, pose = views.k_norm[view][:, None], views.key_from_camera[view]
    rays = np.stack(
        [(uv[..., 0] - k[..., 0, 2]) / k[..., 0, 0], (uv[..., 1] - k[..., 1, 2]) / k[..., 1, 1], np.ones(rows.shape)],
        axis=-1,
    )
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    directions = np.einsum("pij,pnj->pni", pose[:, :3, :3], rays)
    origins = np.broadcast_to(pose[:, None, :3, 3], directions.shape)
    return {
        "images": np.ascontiguousarray((images * 2 - 1).transpose(0, 3, 1, 2)),
        "k_norm": views.k_norm,
        "key_from_camera": views.key_from_camera,
        "origins": origins.reshape(-1, 3).astype(np.float32),
        "directions": directions.reshape(-1, 3).astype(np.float32),
        "truth": images[view[:, None], rows, columns].reshape(-1, 3),
    }


def _normalised(pixels: np.ndarray, size: int, corners: bool) -> np.ndarray:
    """Normalised image coordinate of pixel numbers: -1 and 1 are the first and last pixel, or the outer edges."""
    return 2 * pixels / (size - 1) - 1 if corners else (2 * pixels + 1) / size - 1


def jitter_colours(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random change of brightness, contrast and saturation (0.8 to 1.2) and hue (36 degrees to each side) for all
    images (V, h, w, 3) float32 0..1, in random order, as published."""
    grey_weights = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
    factors, turn = rng.uniform(0.8, 1.2, 3).astype(np.float32), rng.uniform(-0.1, 0.1)
    for change in rng.permutation(4):
        if change == 0:
            images = images * factors[0]
        elif change == 1:
            means = (images @ grey_weights).mean(axis=(1, 2))[:, None, None, None]
            images = means + (images - means) * factors[1]
        elif change == 2:
            grey = (images @ grey_weights)[..., None]
            images = grey + (images - grey) * factors[2]
        else:
            images = _turned_hue(images, turn)
        images = np.clip(images, 0, 1)
    return images.astype(np.float32)


def _turned_hue(images: np.ndarray, turns: float) -> np.ndarray:
    """(V, h, w, 3) float32 RGB with the hue of HSV moved on by so many full turns."""
    hsv = cv2.cvtColor(images.reshape(-1, images.shape[2], 3).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * turns)) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).reshape(images.shape)


def view_loss(model: nn.Module, batch: Batch, config: ViewLossConfig) -> dict[str, Tensor]:
    """The weighted loss terms of a batch of ``frames_batch``: colour, and smoothness where its weight is not 0.

    The model's ``condition(view, flip)`` gives a field with ``density``, ``z_near`` and ``z_far``.
    """
    images, count = batch["images"], len(batch["images"])
    eye = torch.eye(4, device=images.device).expand(count, 4, 4)
    field = model.condition(View(images[:, 0], batch["k_norm"][:, 0], eye), flip=bool(batch["flip"]))
    z = render.z_samples(field.z_near, field.z_far, config.samples, _uniform(batch, config.samples))
    points = render.ray_points(batch["origins"], batch["directions"], z)
    density = field.density(points, config.points_per_call) if config.points_per_call else field.density(points)
    shape = z.shape
    rendered = render.composite(density.sigma.view(shape), z, config.hard_cap)
    views = [
        View(images[:, view], batch["k_norm"][:, view], torch.linalg.inv(batch["key_from_camera"][:, view]))
        for view in batch["render_views"].tolist()
    ]
    with torch.no_grad():
        colours, outside = sample_colours(views, points)
        colours = colours.view(*shape, len(views), 3)
        outside = (outside | density.invalid.unsqueeze(-1)).view(*shape, len(views))
    weights = rendered.weights
    colour = torch.einsum("brk,brkvc->brvc", weights, colours)
    invalid = invalid_rays(weights.detach(), outside, colours, config.invalid)
    patches = (count * config.rays // config.patch**2, config.patch, config.patch)
    seen = patches_of(colour, patches)
    truth = patches_of(batch["truth"].unsqueeze(2), patches)
    distance = (weights * z).sum(dim=-1).view(patches)
    return reconstruction(seen, truth, invalid.view(patches), distance, config)


def reconstruction(
    seen: Tensor, truth: Tensor, invalid: Tensor, distance: Tensor, config: ViewLossConfig
) -> dict[str, Tensor]:
    """The weighted terms of rendered patches, means over all pixels: ``colour``, and ``smooth`` if it has a weight.

    seen: (P, V, 3, h, w) colours by each render view, truth: (P, 1, 3, h, w), both 0..1; invalid: (P, h, w) bool;
    distance: (P, h, w) metres.
    """
    valid = 1 - invalid.float()
    # What one view hides another one may show: the best explanation counts.
    error = losses.patch_error(seen, truth.expand_as(seen)).amin(dim=1)
    terms = {"colour": config.colour * (error * valid).mean()}
    if config.smoothness > 0:
        terms["smooth"] = config.smoothness * (losses.edge_aware_smoothness(distance, truth[:, 0]) * valid).mean()
    return terms


def patches_of(values: Tensor, patches: tuple[int, int, int]) -> Tensor:
    """(B, N, V, C) values of rays to (P, V, C, h, w) patches."""
    return values.reshape(*patches, *values.shape[2:]).permute(0, 3, 4, 1, 2)


def invalid_rays(weights: Tensor, outside: Tensor, colours: Tensor, policy: InvalidPolicy) -> Tensor:
    """(B, N) bool: rays of which no render view says anything.

    weights: (B, N, K); outside: (B, N, K, V) bool, sample not in that view or not in the key frame's; colours:
    (B, N, K, V, 3). weight_guided: more than 0.9 of the weight is outside, in every view. weight_guided_diverse: or the
    view's colours along the ray hardly differ (standard deviation below 0.01). strict: some sample is outside, in every
    view. none: every ray counts.
    """
    if policy == "none":
        return torch.zeros(weights.shape[:2], dtype=torch.bool, device=weights.device)
    if policy == "strict":
        return outside.any(dim=2).all(dim=-1)
    away = torch.einsum("bnk,bnkv->bnv", weights, outside.to(weights.dtype)) > 0.9
    if policy == "weight_guided_diverse":
        away |= colours.std(dim=2).mean(dim=-1) < 0.01
    return away.all(dim=-1)


def _uniform(batch: Batch, samples: int) -> Tensor:
    """(B, N, samples) random numbers 0..1, the same for an item wherever and with whomever it is computed."""
    device, rays = batch["images"].device, batch["origins"].shape[1]
    parts = []
    for seed in batch["seeds"].tolist():
        generator = torch.Generator(device).manual_seed(seed)
        parts.append(torch.rand((rays, samples), generator=generator, device=device))
    return torch.stack(parts)
