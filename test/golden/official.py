"""What the cases of several systems share: official weights by their names, and the published rays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from artifacts import seeded_tensor
from torch import Tensor, nn

from kyn_models.geometry import unproject

Arrays = Mapping[str, np.ndarray]


def fill(
    model: nn.Module,
    manifest: Path,
    kept: str,
    salt: str,
    ours: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    """Fill a model from its official names; ``kept`` prefixes and integers stay as the constructor made them.

    ours: names that the official model lacks; unused: beginnings of official names that the model needs none of.
    Raises ``ValueError`` if the other names, shapes or types are not exactly the official ones.
    """
    official = {
        name: (tuple(shape), dtype)
        for name, (shape, dtype) in json.loads(manifest.read_text()).items()
        if not name.startswith(unused)
    }
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ours}
    own = {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}
    if own != official:
        differing = sorted({name for name, _ in own.items() ^ official.items()})
        raise ValueError(f"{manifest}: got other tensors in the model, expected the official ones: {differing[:4]}")
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.is_floating_point() and not name.startswith(kept):
                tensor.copy_(torch.from_numpy(np.asarray(seeded_tensor(name, tuple(tensor.shape), salt))))


def tensor(array: np.ndarray) -> Tensor:
    """float32 with a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def image_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 as the networks see it: (1, 3, H, W), -1..1."""
    return tensor(image.transpose(2, 0, 1)) / 255 * 2 - 1


def image_rays(case: Arrays, pose: np.ndarray) -> np.ndarray:
    """Rays ``ray_ids`` of the published grid through pixel corners: linspace over -1..1 in both directions."""
    rows, columns = case["image"].shape[-3:-1]
    v, u = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    uv = torch.stack([u, v], dim=-1).view(1, -1, 2)[:, case["ray_ids"]]
    directions = unproject(tensor(case["K_norm"]), uv, torch.ones(1, uv.shape[1]))[0].numpy() @ pose[:3, :3].T
    range_m = np.broadcast_to(case["rays"][:1, 6:], (len(directions), 2))
    return np.concatenate([np.broadcast_to(pose[:3, 3], directions.shape), directions, range_m], axis=1)
