"""Models whose weights follow from their names alone: the same everywhere, of any size, without a download. torch.

They know nothing about any street: good for comparing numbers and for measuring time, never for a picture.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kyn_models import __version__
from kyn_models import config as configuration
from kyn_models.artifact import ENCODER, NETWORK, WEIGHTS, Artifact, Licences, Manifest, TrainingCamera, write_artifact
from kyn_models.cache import MAKING, MODELS, cache_root
from kyn_models.models.bts import Bts, BtsConfig
from kyn_models.models.dymultidepth import DyMultiDepth, DyMultiDepthConfig
from kyn_models.models.dymultidepth_official import CAMERA as FRAMES_CAMERA
from kyn_models.models.dymultidepth_official import INPUT as FRAMES_INPUT
from kyn_models.models.kyn import PUBLISHED_LABELS, Kyn, KynConfig
from kyn_models.models.loading import weights_file


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


def seeded_bts(config: BtsConfig, salt: str = "", lin_out_bias: float = -2.0) -> Bts:
    """A model in evaluation mode. lin_out_bias: the lower, the thinner the world."""
    model = Bts(config).eval()
    seed_by_name(model, salt)
    with torch.no_grad():
        model.mlp_coarse.lin_out.bias.fill_(lin_out_bias)
    return model


def seeded_kyn(config: KynConfig, salt: str = "", lin_out_bias: float = 0.0) -> Kyn:
    """A model in evaluation mode; its text features are random directions as long as CLIP's. lin_out_bias as above."""
    model = Kyn(config).eval()
    seed_by_name(model, salt)
    with torch.no_grad():
        model.mlp_coarse.lin_out.bias.fill_(lin_out_bias)
        model.text_features.mul_(config.lseg.out**0.5)
    return model


def seeded_frames(config: DyMultiDepthConfig, salt: str = "") -> DyMultiDepth:
    """A model of depth from posed frames in evaluation mode."""
    model = DyMultiDepth(config).eval()
    seed_by_name(model, salt)
    return model


def write_seeded_frames(
    path: Path, model: DyMultiDepth, half: bool = False, width: int = 512, height: int = 256
) -> Artifact:
    """Write an artifact with weights alone, seen by the camera of KITTI odometry. width, height: multiples of 16."""
    return _write(
        path, model, half, "dymultidepth", (), replace(FRAMES_CAMERA, width=width, height=height), FRAMES_INPUT
    )


def write_seeded_artifact(
    path: Path, model: Bts | Kyn, half: bool = True, width: int = 640, height: int = 192
) -> Artifact:
    """Write an artifact with weights alone. width, height: of the image, multiples of 32."""
    family, labels = ("kyn", _labels(model.config.label_count)) if isinstance(model, Kyn) else ("bts", ())
    camera = replace(TrainingCamera(), width=width, height=height)
    return _write(path, model, half, family, labels, camera, Manifest.input)


def _write(
    path: Path,
    model: Bts | Kyn | DyMultiDepth,
    half: bool,
    family: str,
    labels: tuple[str, ...],
    camera: TrainingCamera,
    input_: str,
) -> Artifact:
    manifest = Manifest(
        family=family,
        labels=labels,
        config=configuration.to_mapping(model.config),
        camera=camera,
        input=input_,
        z_near=model.config.z_near,
        z_far=model.config.z_far,
        licences=Licences(weights="Apache-2.0", data="none, the weights follow from their names"),
        provenance={"weights": "seeded by their names, for measuring and testing only"},
    )
    return write_artifact(path, manifest, {WEIGHTS: weights_file(model, half)})


def _labels(count: int) -> tuple[str, ...]:
    return tuple(PUBLISHED_LABELS[n] if n < len(PUBLISHED_LABELS) else f"label {n}" for n in range(count))


def cached_artifact(
    config: BtsConfig | KynConfig | DyMultiDepthConfig,
    width: int = 640,
    height: int = 192,
    say: Callable[[str], None] = print,
) -> Artifact:
    """A complete artifact of ``config`` from the cache folder, made and exported there the first time.

    say: is told of the work, which takes up to a minute, for a kyn of the published size a few. Raises ``OSError``
    where the folder cannot be written, ``ValueError`` or ``ImportError`` as export does.
    """
    from kyn_models.export import export

    key = zlib.crc32(repr((config, __version__)).encode())
    kind = {KynConfig: "kyn-", DyMultiDepthConfig: "dymultidepth-"}.get(type(config), "")
    folder = cache_root() / MODELS / f"seeded-{kind}{config.encoder}-{width}x{height}-{key:08x}"
    if folder.is_dir():
        try:
            artifact = Artifact.load(folder)
            artifact.file(NETWORK if isinstance(config, DyMultiDepthConfig) else ENCODER)
            return artifact
        except (OSError, ValueError) as error:
            say(f"made again, because {error}")
            shutil.rmtree(folder)
    say(f"making a {kind}{config.encoder} of {width}x{height} with weights that follow from their names in {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=MAKING, dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        _make(made, config, width, height)
        export(made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    return Artifact.load(folder)


def _make(path: Path, config: BtsConfig | KynConfig | DyMultiDepthConfig, width: int, height: int) -> None:
    """Weights alone. The model is gone afterwards: export loads it again, and it may be gigabytes."""
    if isinstance(config, DyMultiDepthConfig):
        write_seeded_frames(path, seeded_frames(config), width=width, height=height)
        return
    model = seeded_kyn(config) if isinstance(config, KynConfig) else seeded_bts(config)
    write_seeded_artifact(path, model, half=False, width=width, height=height)
