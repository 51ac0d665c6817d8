"""Artifacts for tests: small models whose weights follow from their names alone, as in the golden cases."""

from __future__ import annotations

from pathlib import Path

from kyn_models.artifact import Artifact
from kyn_models.export import export
from kyn_models.models import seeded
from kyn_models.models.bts import Bts, BtsConfig
from kyn_models.models.dymultidepth import DyMultiDepthConfig
from kyn_models.models.kyn import Kyn, KynConfig
from kyn_models.models.seeded import seed_by_name as seed_by_name
from kyn_models.models.seeded import seeded_tensor as seeded_tensor
from kyn_models.networks.lseg import LSegConfig
from kyn_models.networks.vit import VitConfig

TINY = BtsConfig(encoder="efficientnet_lite0", channels_dec=(8, 16, 16, 32, 32), d_out=16, feature_scale=1, hidden=16)
TINY_FRAMES = DyMultiDepthConfig(
    depth_steps=8,
    fused_channels=8,
    channels_enc=(6, 8, 8, 10, 12),
    channels_dec=(12, 10, 8, 8, 6, 6),
    z_near=2.0,
    z_far=50.0,
)
TINY_LSEG = LSegConfig(
    VitConfig(width=32, depth=4, heads=2, patch=16, size=64),
    crop=96,
    taps=(0, 1, 2, 3),
    stages=(8, 16, 32, 32),
    features=16,
    out=12,
)
TINY_KYN = KynConfig(
    encoder="efficientnet_lite0",
    channels_dec=(8, 16, 16, 32, 32),
    d_out=16,
    lseg=TINY_LSEG,
    fused=24,
    hidden=16,
    head_channels=4,
    label_count=6,
)


def seeded_bts(config: BtsConfig = TINY, salt: str = "", lin_out_bias: float = -2.0) -> Bts:
    """A model in evaluation mode. lin_out_bias: the lower, the thinner the world."""
    return seeded.seeded_bts(config, salt, lin_out_bias)


def seeded_kyn(config: KynConfig = TINY_KYN, salt: str = "", lin_out_bias: float = 0.0) -> Kyn:
    """The same for Know Your Neighbors."""
    return seeded.seeded_kyn(config, salt, lin_out_bias)


def write_seeded_artifact(
    path: Path, model: Bts | Kyn | None = None, half: bool = True, width: int = 640, height: int = 192
) -> Artifact:
    """Write an artifact with weights alone."""
    return seeded.write_seeded_artifact(path, model or seeded_bts(), half, width, height)


def write_tiny_frames(path: Path, width: int = 96, height: int = 64) -> Artifact:
    """The same of dymultidepth."""
    seeded.write_seeded_frames(path, seeded.seeded_frames(TINY_FRAMES), width=width, height=height)
    return export(path)[0]


def write_tiny_kyn(path: Path, width: int = 160, height: int = 64, lin_out_bias: float = -2.0) -> Artifact:
    """The same of Know Your Neighbors. lin_out_bias: at -0.8 some cells are occupied and some free."""
    write_seeded_artifact(path, seeded_kyn(lin_out_bias=lin_out_bias), width=width, height=height)
    return export(path)[0]


def write_tiny_artifact(path: Path) -> Artifact:
    """Write a complete small artifact (seconds): weights, ONNX, decoder, self-test."""
    write_seeded_artifact(path)
    return export(path)[0]
