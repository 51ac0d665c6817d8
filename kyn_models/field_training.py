"""What trains a density field on synthetic streets: batches with augmentation, the loss, the validation. torch.

Any family whose ``condition`` gives a field with ``along_rays`` and points can be trained with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from kyn_models import losses, ranks, render
from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.canonical import CanonicalCamera
from kyn_models.data.street_cache import StreetCache
from kyn_models.geometry import View, sample_colours
from kyn_models.train import Batch

CAMERA = CanonicalCamera(KITTI360_CAMERA)


@dataclass(frozen=True)
class FieldLossConfig:
    """images: per step. points: labelled points per image. patches: square patches of ``patch`` pixels per image whose
    rays are rendered. occupancy, depth, colour: weights of the three losses (0 leaves one out).
    augment: strength of the colour augmentation, 0 none. freeze_norms: keep the encoder's normalisation statistics."""

    images: int = 6
    points: int = 2048
    patches: int = 6
    patch: int = 8
    occupancy: float = 1.0
    depth: float = 1.0
    colour: float = 0.2
    augment: float = 1.0
    freeze_norms: bool = True


def make_batch(cache: StreetCache, config: FieldLossConfig, seed: int, step: int, share: slice = slice(None)) -> Batch:
    """The batch of a step: a function of (seed, step) alone. share: which of its images this process takes.

    image (B, 3, H, W) augmented -1..1; clean and partner (B, 3, H, W) -1..1; k_norm (B, 3, 3);
    partner_from_key (B, 4, 4); points (B, P, 3), occupied (B, P); pixels (B, R, 2) row, column; directions (B, R, 3);
    depth (B, R) metres, +Inf sky; jitter (B, 1, K); items (B,).
    """
    rng = np.random.default_rng((seed, step))
    chosen = rng.integers(0, len(cache), config.images)
    # Items draw from one generator, one after the other: those of other processes are made and left out.
    items = [_item(cache, int(index), config, rng) for index in chosen][share]
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    return {**batch, "items": torch.from_numpy(chosen[share])}


def _item(cache: StreetCache, index: int, config: FieldLossConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    pair, side = divmod(index, 2)
    arrays = cache.arrays
    image, partner = np.array(arrays["images"][pair, side]), np.array(arrays["images"][pair, 1 - side])
    right_from_left = np.array(arrays["right_from_left"][pair])
    chosen = rng.choice(cache.config.points, config.points, replace=config.points > cache.config.points)
    rows, columns = _patch_pixels(config, rng)
    depth = arrays["depth"][pair, side][rows, columns].astype(np.float32)
    k, k_norm = CAMERA.intrinsics, CAMERA.k_norm.copy()
    directions = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones(len(rows))], axis=-1)
    points = np.array(arrays["points"][pair, side][chosen], dtype=np.float32)
    pose = right_from_left if side == 0 else np.linalg.inv(right_from_left)
    if rng.uniform() < 0.5:
        mirror = np.diag([-1.0, 1, 1, 1])
        image, partner = image[:, ::-1], partner[:, ::-1]
        k_norm[0, 2] *= -1
        columns = k.width - 1 - columns
        directions[:, 0] *= -1
        points = points * np.array([-1, 1, 1], dtype=np.float32)
        pose = mirror @ pose @ mirror
    return {
        "image": _network_image(augment(image, config.augment, rng)),
        "clean": _network_image(image),
        "partner": _network_image(partner),
        "k_norm": k_norm.astype(np.float32),
        "partner_from_key": pose.astype(np.float32),
        "points": points,
        "occupied": arrays["occupied"][pair, side][chosen].astype(np.float32),
        "pixels": np.stack([rows, columns], axis=-1),
        "directions": directions.astype(np.float32),
        "depth": depth,
        "jitter": rng.uniform(size=(1, render.SAMPLES)).astype(np.float32),
    }


def _patch_pixels(config: FieldLossConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all pixels of all patches, patch by patch."""
    size = config.patch
    top = rng.integers(0, CAMERA.height - size + 1, config.patches)[:, None, None]
    left = rng.integers(0, CAMERA.width - size + 1, config.patches)[:, None, None]
    rows = np.broadcast_to(top + np.arange(size)[None, :, None], (config.patches, size, size))
    columns = np.broadcast_to(left + np.arange(size)[None, None, :], (config.patches, size, size))
    return rows.reshape(-1), columns.reshape(-1)


def _network_image(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1


def augment(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Another camera, another light: (H, W, 3) uint8 to the same with random exposure, contrast, colour, softness,
    noise and compression. It makes a network that saw only rendered streets look at shapes instead of shades."""
    if strength <= 0:
        return image
    x = image.astype(np.float32) / 255
    x = x ** np.float32(np.exp(0.35 * strength * rng.standard_normal()))
    x *= np.float32(np.exp(0.2 * strength * rng.standard_normal()))
    x *= np.exp(0.06 * strength * rng.standard_normal(3)).astype(np.float32)
    grey = x.mean(axis=2, keepdims=True)
    x = grey + (x - grey) * np.float32(np.exp(0.35 * strength * rng.standard_normal()))
    x = 0.45 + (x - 0.45) * np.float32(np.exp(0.2 * strength * rng.standard_normal()))
    if rng.uniform() < 0.3 * strength:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.3, 1.3)))
    elif rng.uniform() < 0.4 * strength:
        x = x + np.float32(rng.uniform(0.2, 1.2)) * (x - cv2.GaussianBlur(x, (0, 0), 1.0))
    if rng.uniform() < 0.5 * strength:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.05))
    out = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    if rng.uniform() < 0.25 * strength:
        quality = int(rng.integers(35, 95))
        out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return out


def field_loss(model: nn.Module, batch: Batch, config: FieldLossConfig) -> dict[str, Tensor]:
    """The weighted loss terms of a batch (see ``make_batch``)."""
    if config.freeze_norms:
        for module in model.encoder.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    eye = torch.eye(4, device=batch["image"].device).expand(len(batch["image"]), 4, 4)
    field = model.condition(View(batch["image"], batch["k_norm"], eye))
    terms = {}
    if config.occupancy > 0:
        terms["occupancy"] = config.occupancy * losses.occupancy_loss(field(batch["points"]), batch["occupied"])
    z = render.z_samples(field.z_near, field.z_far, jitter=batch["jitter"])
    rendered = render.composite(field.along_rays(batch["directions"], z), z)
    if config.depth > 0:
        depth = (rendered.weights * z).sum(dim=-1)
        terms["depth"] = config.depth * losses.depth_loss(
            depth, rendered.passed, batch["depth"], field.z_near, field.z_far
        )
    if config.colour > 0:
        terms["colour"] = config.colour * _colour_loss(rendered, z, batch, config)
    return terms


def _colour_loss(rendered: render.Composite, z: Tensor, batch: Batch, config: FieldLossConfig) -> Tensor:
    """The partner's colours, composited along the rays, against the key image."""
    images, rays = batch["pixels"].shape[:2]
    points = render.ray_points(torch.zeros_like(batch["directions"]), batch["directions"], z)
    partner = View(batch["partner"], batch["k_norm"], batch["partner_from_key"])
    colours, invalid = sample_colours([partner], points)
    weights = rendered.weights.unsqueeze(-1)
    colour = (weights * colours[:, :, 0].view(images, rays, -1, 3)).sum(dim=2)
    hidden = (weights * invalid.view(images, rays, -1, 1)).sum(dim=2)
    batch_index = torch.arange(images, device=z.device)[:, None]
    truth = batch["clean"][batch_index, :, batch["pixels"][..., 0], batch["pixels"][..., 1]] * 0.5 + 0.5
    shape = (images * config.patches, config.patch, config.patch)
    return losses.colour_loss(
        colour.view(*shape, 3).permute(0, 3, 1, 2), truth.view(*shape, 3).permute(0, 3, 1, 2), hidden.view(shape)
    )


def validate(
    model: nn.Module, cache: StreetCache, stride: int = 8, size: tuple[int, int] | None = None
) -> tuple[float, dict[str, float]]:
    """Score (lower is better) and numbers on a held-out set, left images only.

    size: (height, width) that the network wants, else that of the stored images.

    abs_rel: of rays through every ``stride``-th pixel, 3 to 80 m, sky as 80 m. occupancy: share of right answers on the
    points of the metric's slab (two fifths of the stored points), against the published threshold.

    Each of several processes takes its share of the pairs; all of them get the answer.
    """
    k = CAMERA.intrinsics
    device = next(model.parameters()).device
    rows, columns = np.mgrid[stride // 2 : k.height : stride, stride // 2 : k.width : stride]
    directions = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones_like(rows)], -1).reshape(1, -1, 3)
    rays = torch.from_numpy(directions.astype(np.float32)).to(device)
    scores = []
    for pair in ranks.share(range(cache.config.pairs)):
        pixels = np.array(cache.arrays["images"][pair, 0])
        if size is not None:
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        field = condition(model, _network_image(pixels), CAMERA.k_norm)
        depth = ray_depth(field, rays)
        truth = cache.arrays["depth"][pair, 0][rows, columns].reshape(-1).astype(np.float32)
        slab = slice(2 * cache.config.points // 5)
        points = torch.from_numpy(np.array(cache.arrays["points"][pair, 0][slab]))[None].to(device)
        occupied = cache.arrays["occupied"][pair, 0][slab] > 0
        scores.append((abs_rel(depth, truth), np.mean((field(points)[0].cpu().numpy() > 0.5) == occupied)))
    relative, right = np.mean(ranks.gather(scores), axis=0)
    numbers = {"abs_rel": float(relative), "occupancy": float(right)}
    return numbers["abs_rel"] + 2 * (1 - numbers["occupancy"]), numbers


def condition(model: nn.Module, image: np.ndarray, k_norm: np.ndarray) -> Any:
    """The field of one image (3, H, W) float32 -1..1, in its own camera's axes, on the model's device."""
    device = next(model.parameters()).device
    arrays = image.astype(np.float32), k_norm.astype(np.float32), np.eye(4, dtype=np.float32)
    return model.condition(View(*(torch.from_numpy(array)[None].to(device) for array in arrays)))


def ray_depth(field: Any, rays: Tensor) -> np.ndarray:
    """(R,) metres along (1, R, 3) rays, by the rule of robots, sky as 80 m; 3 to 80 m."""
    z = render.z_samples(field.z_near, field.z_far).to(rays.device)
    rendered = render.composite(field.along_rays(rays, z[None, None]), z)
    return render.surface_depth(rendered, z)[0].clamp(3, 80).cpu().numpy()


def abs_rel(depth: np.ndarray, truth: np.ndarray) -> float:
    """Mean of |depth - truth| / truth where the truth is between 3 and 80 m; NaN where it never is."""
    known = (truth > 3) & (truth < 80)
    return float(np.mean(np.abs(depth - truth)[known] / truth[known])) if known.any() else float("nan")
