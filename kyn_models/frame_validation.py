"""What a model trained on frames is worth on held-out ones: depth against the lidar, else colours of other views.

torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kyn_models import ranks
from kyn_models.data.sources import Frames
from kyn_models.field_training import abs_rel, condition, ray_depth
from kyn_models.types import Sample
from kyn_models.view_synthesis import ViewLossConfig, frames_batch, view_loss

RAYS = 1024
"""Lidar points that a frame's depth is compared at, evenly taken from all of its."""


def validate_frames(model: nn.Module, frames: Frames, config: ViewLossConfig) -> tuple[float, dict[str, float]]:
    """Score (lower is better) and numbers over all of ``frames``, each process its share.

    colour: the training's colour error, with the same patches every time and without augmentation. abs_rel: depth
    against ``Sample.depth_m`` (3 to 80 m), where frames have it; it is the score then, else colour is.
    """
    still = replace(config, images=1, jitter=False, flip=False, smoothness=0.0)
    device = next(model.parameters()).device
    rows = []
    for index in ranks.share(range(len(frames))):
        sample = frames[index]
        views = frames.views(index, sample)
        batch = {name: value.to(device) for name, value in frames_batch([views], still, 0, index).items()}
        colour = float(view_loss(model, batch, still)["colour"])
        depth = _abs_rel(model, sample, views.images[0], views.k_norm[0])
        rows.append((colour, depth))
    found = np.array(ranks.gather(rows))
    numbers = {"colour": float(found[:, 0].mean())}
    known = np.isfinite(found[:, 1])
    if known.any():
        numbers["abs_rel"] = float(found[known, 1].mean())
    return numbers.get("abs_rel", numbers["colour"]), numbers


def _abs_rel(model: nn.Module, sample: Sample, image: np.ndarray, k_norm: np.ndarray) -> float:
    truth, k = sample.depth_m, sample.observation.key.intrinsics
    if truth is None:
        return float("nan")
    rows, columns = np.nonzero((truth > 3) & (truth < 80))
    if len(rows) == 0:
        return float("nan")
    chosen = np.linspace(0, len(rows) - 1, min(RAYS, len(rows))).round().astype(int)
    rows, columns = rows[chosen], columns[chosen]
    directions = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones(len(rows))], axis=-1)
    rays = torch.from_numpy(directions.astype(np.float32))[None].to(next(model.parameters()).device)
    field = condition(model, image.transpose(2, 0, 1) / np.float32(127.5) - 1, k_norm)
    return abs_rel(ray_depth(field, rays), truth[rows, columns])
