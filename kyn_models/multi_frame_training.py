"""What trains depth from several frames: batches with augmentation, the published loss, the validation. torch.

Li et al., Learning to Fuse Monocular and Multi-view Cues, CVPR 2023.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models import ranks
from kyn_models.artifact import Branch
from kyn_models.data.depth_items import DepthItem, DepthItems
from kyn_models.depth_losses import VirtualNormals, draw_triples, log_depth_loss
from kyn_models.networks import plane_sweep
from kyn_models.runtimes.sweep import CompiledSweep
from kyn_models.train import Batch
from kyn_models.view_synthesis import epoch_items, jitter_colours

RANGE_M = (3.0, 80.0)
"""True depths that validation scores, and what answers are cut to."""
DROPPED_PX = 8
"""Side of the squares that dropout takes."""
NEAREST_INVERSE = 100.0
_compiled = threading.Lock()
"""Loops that use all cores must not be called by two threads at a time."""


@dataclass(frozen=True)
class DepthLossConfig:
    """images: key frames per step. depth, normals: weights of the two losses, of each branch at each of the four
    scales. farthest_m: true depths beyond it, and the sky where the data knows it, count as so far (0: the sky teaches
    nothing, as where a lidar is the teacher).
    branches: which of them learn; "mono" alone needs no cost volume. dropout: share of what ``drop`` says whose fused
    cues are taken away (0 in the authors' files): of "squares" of 8 pixels or of whole "items" at random, or, in so
    many of the items, of all that is "moving" by the masks of the data. flip: mirror half of the items, with cameras
    and poses. jitter: one random change of colours per item, for all its frames. sweep: who computes cost volumes, the
    compiled loop of the CPU while batches are made, or torch on the device.
    """

    images: int = 8
    depth: float = 4.0
    normals: float = 1.0
    farthest_m: float = 0.0
    branches: tuple[Branch, ...] = ("fused", "mono")
    dropout: float = 0.0
    drop: Literal["squares", "items", "moving"] = "squares"
    flip: bool = True
    jitter: bool = True
    sweep: Literal["torch", "compiled"] = "torch"

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"depth_loss.images: got {self.images}, expected at least 1")
        for name in ("depth", "normals", "farthest_m"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"depth_loss.{name}: got {getattr(self, name)}, expected a number of 0 or above")
        if self.depth == self.normals == 0:
            raise ValueError("depth_loss.depth, normals: got 0 for both, expected one above 0, or nothing is learned")
        if not self.branches or len(set(self.branches)) != len(self.branches):
            raise ValueError(f"depth_loss.branches: got {self.branches}, expected fused, mono or both, each once")
        if not 0 <= self.dropout < 1 and not (self.drop == "moving" and self.dropout == 1):
            raise ValueError(
                f"depth_loss.dropout: got {self.dropout}, expected 0 or above and below 1 (1 too of what moves)"
            )
        if self.dropout > 0 and "fused" not in self.branches:
            raise ValueError(
                f"depth_loss.dropout: got {self.dropout}, expected 0 where the fused branch does not learn"
            )

    @property
    def needs_masks(self) -> bool:
        """Whether data must say what moves."""
        return self.drop == "moving" and self.dropout > 0


def require_sweep(config: DepthLossConfig, matching: plane_sweep.Matching) -> None:
    """Raises ``ValueError`` where the compiled sweep is asked for another matching than the one that it computes."""
    if config.sweep == "compiled" and matching != plane_sweep.PUBLISHED:
        raise ValueError(
            f"depth_loss.sweep: got compiled with {matching}, expected torch: compiled loops compute "
            f"{plane_sweep.PUBLISHED}"
        )


def depth_batch(
    items: DepthItems, config: DepthLossConfig, depths: Tensor, seed: int, step: int, share: slice = slice(None)
) -> Batch:
    """The batch of a step: a function of (seed, step) alone. share: which of its images this process takes.

    images (B, 1 + N, 3, H, W) -0.5..0.5, the key frame first; k (B, 1 + N, 3, 3); neighbour_from_key (B, N, 4, 4);
    target (B, 1, H, W) 1 / metres, 0 unknown; sky and moving (B, 1, H, W) bool, the first as far as ``farthest_m``;
    seeds (B,) int64 for dropout and triples; items (B,); cost (B, D, H, W) where ``sweep`` is compiled and the fused
    branch learns. depths: (D,) planes of the sweep.
    """
    rng = np.random.default_rng((seed, step, 2))
    chosen = epoch_items(len(items), config.images, seed, step)
    draws = rng.integers(0, 2**62, config.images)
    parts = [
        _tensors(augmented(items[int(index)], config, np.random.default_rng(int(draw))), config, depths)
        for index, draw in zip(chosen[share], draws[share], strict=True)
    ]
    batch = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return {**batch, "seeds": torch.from_numpy(draws[share]), "items": torch.from_numpy(chosen[share])}


def augmented(item: DepthItem, config: DepthLossConfig, rng: np.random.Generator) -> DepthItem:
    """The item in other colours and, every other time, mirrored."""
    if config.jitter:
        colours = jitter_colours(item.images.astype(np.float32) / 255, rng)
        item = item._replace(images=np.rint(colours * 255).astype(np.uint8))
    return mirrored(item) if config.flip and rng.uniform() < 0.5 else item


def mirrored(item: DepthItem) -> DepthItem:
    """The item as a mirror shows it: images, depth, cameras and poses, so that its geometry stays true."""
    k = item.k.copy()
    k[:, 0, 2] = item.images.shape[2] - 1 - k[:, 0, 2]
    mirror = np.diag([-1, 1, 1, 1]).astype(np.float32)
    return DepthItem(
        np.ascontiguousarray(item.images[:, :, ::-1]),
        k,
        (mirror @ item.neighbour_from_key @ mirror).astype(np.float32),
        np.ascontiguousarray(item.depth_m[:, ::-1]),
        np.ascontiguousarray(item.moving[:, ::-1]),
    )


def _tensors(item: DepthItem, config: DepthLossConfig, depths: Tensor) -> dict[str, Tensor]:
    far = item.depth_m >= config.farthest_m if config.farthest_m else np.isposinf(item.depth_m)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(item.depth_m > 0, 1 / item.depth_m, 0).astype(np.float32)
    inverse = np.where(far, np.float32(1 / config.farthest_m if config.farthest_m else 0), inverse)
    tensors = {
        "images": torch.from_numpy(item.images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5),
        "k": torch.from_numpy(item.k),
        "neighbour_from_key": torch.from_numpy(item.neighbour_from_key),
        "target": torch.from_numpy(inverse.clip(0, NEAREST_INVERSE))[None],
        "sky": torch.from_numpy(far)[None],
        "moving": torch.from_numpy(item.moving)[None],
    }
    if config.sweep == "compiled" and "fused" in config.branches:
        tensors["cost"] = compiled_cost(item, depths)
    return tensors


def compiled_cost(item: DepthItem, depths: Tensor) -> Tensor:
    """(D, H, W) cost volume of an item by the compiled loop; threads take turns."""
    height, width = item.images.shape[1:3]
    sweep = CompiledSweep(height, width, depths.numpy())
    with _compiled:
        swept = sweep(item.images[0], item.images[1:], item.k[0], item.k[1:], item.neighbour_from_key)
    return torch.from_numpy(swept.volume)


def multi_frame_loss(model: nn.Module, batch: Batch, config: DepthLossConfig) -> dict[str, Tensor]:
    """The weighted terms of a batch (see ``depth_batch``): log depth and virtual normals of the branches that learn.

    Every one is the sum over the four scales, coarse maps enlarged by their nearest pixel.
    """
    image, target = batch["images"][:, 0], batch["target"]
    learning = _branches(model, batch, config)
    near = (target > 0) & ~batch["sky"]
    truth = torch.where(near, 1 / torch.where(near, target, 1.0), 0.0)
    triples = draw_triples(batch["seeds"], *target.shape[2:]).to(image.device)
    normals = VirtualNormals(truth, batch["k"][:, 0], triples)
    terms = {}
    for name, maps in learning.items():
        terms[name] = config.depth * torch.stack([log_depth_loss(scale, target) for scale in maps]).sum()
        if config.normals > 0:
            terms[f"{name} normals"] = config.normals * torch.stack([normals.loss(1 / scale) for scale in maps]).sum()
    return terms


def _branches(model: nn.Module, batch: Batch, config: DepthLossConfig) -> dict[str, tuple[Tensor, ...]]:
    """Maps of 1 / metres of the branches that learn."""
    image = batch["images"][:, 0]
    if "fused" not in config.branches:
        return {"mono": model.mono_inverse_depths(image)}
    found = model.inverse_depths(image, _cost(model, batch), dropped(batch["seeds"], image, config, batch["moving"]))
    return {name: getattr(found, name) for name in config.branches}


def dropped(seeds: Tensor, image: Tensor, config: DepthLossConfig, moving: Tensor) -> Tensor | None:
    """(B, 1, H, W) 0 where ``dropout`` takes fused cues away, else 1; None for no share. The same for an item with
    whomever it is.

    As published, a square or an item is taken with this probability; in the authors' code an item that is taken keeps
    its cues times 1 - 1 / share (they are not set to 0), which is not done here. moving: (B, 1, H, W) bool.
    """
    if config.dropout == 0:
        return None
    height, width = image.shape[2:]
    size = (height // DROPPED_PX, width // DROPPED_PX) if config.drop == "squares" else (1, 1)
    draws = [torch.rand((1, *size), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    kept = (torch.stack(draws) >= config.dropout).to(image)
    kept = functional.interpolate(kept, (height, width), mode="nearest")
    return kept.where(moving, 1.0) if config.drop == "moving" else kept


def _cost(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    if "cost" in batch:
        return batch["cost"]
    images, k = batch["images"], batch["k"]
    cost: Tensor = model.cost_volume(images[:, 0], k[:, 0], images[:, 1:], batch["neighbour_from_key"], k[:, 1:])
    return cost


def validate_depth(model: nn.Module, items: DepthItems, config: DepthLossConfig) -> tuple[float, dict[str, float]]:
    """Score (lower is better) and numbers over all items, each process its share.

    abs_rel of all scored pixels together: of the answer (``fused``), of the branch that sees the key frame alone
    (``mono``), and of the plane that matches best without any network (``matched``, only where a neighbour counts); of
    all pixels, of those on moving things and of the others, where items have such pixels. The score is that of the
    answer, of ``mono`` where that branch alone learns.
    """
    device = next(model.parameters()).device
    depths = model.depths(torch.zeros(1))
    plain = DepthLossConfig(images=1, flip=False, jitter=False, sweep=config.sweep, farthest_m=config.farthest_m)
    sums = []
    for index in ranks.share(range(len(items))):
        item = items[index]
        part = {name: value[None].to(device) for name, value in _tensors(item, plain, depths).items()}
        cost = _cost(model, part)
        found = model.inverse_depths(part["images"][:, 0], cost)
        answers = {
            "fused": 1 / found.fused[0][0, 0].float(),
            "mono": 1 / found.mono[0][0, 0].float(),
            "matched": plane_sweep.best_depth(cost, depths.to(device))[0],
        }
        sums.append({name: _errors(answer.cpu().numpy(), item) for name, answer in answers.items()})
    sums = ranks.gather(sums)
    numbers = {}
    for name in ("fused", "mono", "matched"):
        total = np.sum([errors[name] for errors in sums], axis=0)
        for area, (error, count) in zip(("", " moving", " static"), total, strict=True):
            if count:
                numbers[name + area] = float(error / count)
    return numbers["fused" if "fused" in config.branches else "mono"], numbers


def _errors(depth: np.ndarray, item: DepthItem) -> np.ndarray:
    """(3, 2): sum of relative errors and number of scored pixels, of all, moving and static ones."""
    low, high = RANGE_M
    scored = (item.depth_m > low) & (item.depth_m < high) & ~np.isnan(depth)
    truth = item.depth_m[scored]
    relative = np.abs(depth[scored].clip(low, high) - truth) / truth
    moving = item.moving[scored]
    return np.array([(relative[area].sum(), area.sum()) for area in (np.ones_like(moving), moving, ~moving)])
