"""Artifacts for tests: models whose weights follow from their names alone, as in the golden cases."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Artifact, Licences, Manifest, TrainingCamera, write_artifact
from kyn_models.export import export
from kyn_models.models.bts import Bts, BtsConfig
from kyn_models.models.loading import weights_file

TINY = BtsConfig(encoder="efficientnet_lite0", channels_dec=(8, 16, 16, 32, 32), d_out=16, feature_scale=1, hidden=16)


def seeded_tensor(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """A float32 tensor that follows from its name (the rule of the golden cases)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32((name + salt).encode())))
    values = rng.standard_normal(shape, dtype=np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(values)
    if last in ("running_mean", "bias"):
        return np.float32(0.05) * values
    if len(shape) >= 2:
        return values * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    return 1 + np.float32(0.1) * values


def seed_by_name(model: nn.Module, salt: str = "", kept: tuple[str, ...] = ("code_xyz.",)) -> None:
    """Fill every floating-point tensor of ``model`` from its name; ``kept`` prefixes and integers stay as they are."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.startswith(kept):
                tensor.copy_(torch.from_numpy(np.asarray(seeded_tensor(name, tuple(tensor.shape), salt))))


def seeded_bts(config: BtsConfig = TINY, salt: str = "", lin_out_bias: float = -2.0) -> Bts:
    """A model in evaluation mode. lin_out_bias: the lower, the thinner the world."""
    model = Bts(config).eval()
    seed_by_name(model, salt)
    with torch.no_grad():
        model.mlp_coarse.lin_out.bias.fill_(lin_out_bias)
    return model


def write_seeded_artifact(
    path: Path, model: Bts | None = None, half: bool = True, width: int = 640, height: int = 192
) -> Artifact:
    """Write an artifact with weights alone."""
    model = model or seeded_bts()
    manifest = Manifest(
        family="bts",
        config=configuration.to_mapping(model.config),
        camera=replace(TrainingCamera(), width=width, height=height),
        z_near=model.config.z_near,
        z_far=model.config.z_far,
        licences=Licences(weights="Apache-2.0", data="none, the weights follow from their names"),
        provenance={"made by": "test/artifacts.py"},
    )
    return write_artifact(path, manifest, {WEIGHTS: weights_file(model, half)})


def write_tiny_artifact(path: Path) -> Artifact:
    """Write a complete small artifact (seconds): weights, ONNX, decoder, self-test."""
    write_seeded_artifact(path)
    return export(path)[0]
