"""From a configuration to its training: model, data, loss, loop; and the artifact it ends in.

What is learned from follows from the file: ``data`` (frames with poses) trains self-supervised, as published; without
it the geometry of synthetic streets is the teacher, as for the shipped model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from kyn_models import __version__, ranks
from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Manifest, TrainingCamera, write_artifact
from kyn_models.data import frame_cache, street_cache
from kyn_models.data.depth_items import DepthItems, LiveItems, PosedFrames, StoredItems, store_items
from kyn_models.data.frame_cache import ViewItems
from kyn_models.data.sources import Frames, LiveViews
from kyn_models.data.street_cache import CacheConfig, StreetCache
from kyn_models.export import export
from kyn_models.field_training import field_loss, make_batch, validate
from kyn_models.frame_validation import validate_frames
from kyn_models.loop import BEST, NOT_COMPARED, part_of
from kyn_models.models.dymultidepth_official import INPUT as FRAMES_INPUT
from kyn_models.models.loading import fill, make_config, make_model, weights_file
from kyn_models.multi_frame_training import depth_batch, multi_frame_loss, validate_depth
from kyn_models.networks.plane_sweep import sweep_depths
from kyn_models.origin import STREETS, branches_of, licences_of, source_of, start_of
from kyn_models.starting import start_from_artifact, start_from_imagenet, start_with_density, start_with_language
from kyn_models.train import Batches, Loss, Trainer
from kyn_models.train_config import TrainConfig as TrainConfig
from kyn_models.types import Intrinsics, Sample
from kyn_models.view_synthesis import divide_views, frames_batch, view_loss

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], tuple[float, dict[str, float]]]


@dataclass(frozen=True)
class Task:
    """What the loop asks for. camera: the one that the artifact is for; source: of the data, for its licence.

    prepare: renders and stores what ``batches`` and ``validate`` read, for minutes, with a progress bar; all processes
    call it together. Where it was not called, the first use does the same.
    """

    loss: Loss
    batches: Batches
    item_name: Callable[[int], str]
    validate: Validate
    camera: TrainingCamera
    source: str
    prepare: Callable[[], object]


def make_task(config: TrainConfig, folder: Path) -> Task:
    """Data, loss and validation of a configuration. folder: where rendered streets and stored views are kept.

    The first of several processes makes what is stored, the others wait for it. Raises ``ValueError`` or
    ``FileNotFoundError`` for frames that are not there or too few views of them, before anything is made.
    """
    if config.frames is not None:
        return _multi_frame(config, folder)
    if config.data is None:
        return _geometry(config, folder)
    frames = Frames(config.data)
    seed = config.loop.seed
    divide_views(frames.view_count(), config.view_loss, np.random.default_rng(seed))
    validate, prepare_validation = _frame_validation(config, folder)
    items = cache(lambda: _view_items(frames, folder))

    def batches(step: int, part: int, parts: int) -> Mapping[str, torch.Tensor]:
        return frames_batch(items(), config.view_loss, seed, step, part_of(config.view_loss.images, part, parts))

    return Task(
        lambda model, batch, step: view_loss(model, batch, config.view_loss),
        batches,
        frames.name,
        validate,
        training_camera(frames, config.data.size),
        source_of(config.data.layout),
        lambda: (prepare_validation(), items()),
    )


def _view_items(frames: Frames, folder: Path) -> ViewItems:
    """The items as training reads them: stored in ``folder`` if the configuration says so, else read anew."""
    config, path = frames.config, folder / "views"
    if not config.cache:
        return LiveViews(frames)
    settings = configuration.to_mapping(config)
    return _stored(path, frames, lambda show: frame_cache.build(path, frames, config.size, settings, show))


def _frame_validation(config: TrainConfig, folder: Path) -> tuple[Validate, Callable[[], object]]:
    """How a model is validated, and what prepares that."""
    if config.held_out is None:
        assert config.data is not None
        streets = cache(lambda: _street_cache(folder / "validation", config.validation))
        size = config.data.size
        return (lambda model: validate(model, streets(), size=size)), streets
    frames = Frames(config.held_out)
    divide_views(frames.view_count(), config.view_loss, np.random.default_rng(0))
    return (lambda model: validate_frames(model, frames, config.view_loss)), lambda: None


def _geometry(config: TrainConfig, folder: Path) -> Task:
    validation = cache(lambda: _street_cache(folder / "validation", config.validation))
    training = cache(lambda: _street_cache(folder / "training", config.streets))

    def batches(step: int, part: int, parts: int) -> Mapping[str, torch.Tensor]:
        return make_batch(training(), config.loss, config.loop.seed, step, part_of(config.loss.images, part, parts))

    return Task(
        lambda model, batch, step: field_loss(model, batch, config.loss),
        batches,
        lambda item: f"street {config.streets.first_seed + item // 2 // config.streets.per_street}",
        lambda model: validate(model, validation()),
        TrainingCamera(),
        STREETS,
        lambda: (validation(), training()),
    )


def _multi_frame(config: TrainConfig, folder: Path) -> Task:
    assert config.frames is not None and config.held_out_frames is not None
    loss, seed = config.depth_loss, config.loop.seed
    frames, held_out = PosedFrames(config.frames, loss.needs_masks), PosedFrames(config.held_out_frames)
    training = cache(lambda: _depth_items(frames, folder / "frames"))
    validation = cache(lambda: _depth_items(held_out, folder / "held_out_frames"))
    planes = make_config(config.family, config.model, "model")
    depths = sweep_depths(planes.z_near, planes.z_far, planes.depth_steps, torch.zeros(1))

    def batches(step: int, part: int, parts: int) -> Mapping[str, torch.Tensor]:
        return depth_batch(training(), loss, depths, seed, step, part_of(loss.images, part, parts))

    return Task(
        lambda model, batch, step: multi_frame_loss(model, batch, loss),
        batches,
        frames.name,
        lambda model: validate_depth(model, validation(), loss),
        _camera_of(frames[0], frames.source(), config.frames.size),
        STREETS if config.frames.layout == "streets" else f"frames in the layout {config.frames.layout} with depth",
        lambda: (validation(), training()),
    )


def _depth_items(frames: PosedFrames, path: Path) -> DepthItems:
    """The items as training reads them: stored in ``path`` if the configuration says so, else read anew."""
    if not frames.config.cache:
        return LiveItems(frames)
    settings = configuration.to_mapping(frames.config)
    stored: StoredItems = _stored(path, frames, lambda show: store_items(path, frames, settings, show))
    log.info("%s: %.1f %% of the pixels move", path, 100 * stored.moving_share())
    return stored


def _street_cache(path: Path, config: CacheConfig) -> StreetCache:
    return _stored(path, range(config.pairs), lambda show: street_cache.build(path, config, show))


def _stored(path: Path, items: Any, build: Callable[[Callable[[int], None]], Any]) -> Any:
    """What ``build`` makes with a progress bar; one process makes it, the others then find it done."""
    if ranks.first():
        with tqdm(total=len(items), desc=str(path), unit="item", mininterval=5) as bar:
            build(lambda done: bar.update(done - bar.n))
    ranks.gather([None])
    return build(lambda done: None)


def training_camera(frames: Frames, size: tuple[int, int]) -> TrainingCamera:
    """The camera of the first key frame: what an artifact says that its model was trained with."""
    return _camera_of(frames[0], frames.source(0), size)


def _camera_of(sample: Sample, source: Intrinsics, size: tuple[int, int]) -> TrainingCamera:
    mount = sample.observation.base_from_camera
    return TrainingCamera(
        source,
        width=size[1],
        height=size[0],
        height_m=round(float(mount[2, 3]), 3),
        pitch_deg=round(math.degrees(math.asin(float(np.clip(-mount[2, 2], -1, 1)))), 2),
    )


def make_trainer(config: TrainConfig, task: Task, out: Path, device: str = "cpu") -> Trainer:
    """The trainer of a configuration, at step 0.

    Raises ``ValueError`` for a model that cannot be made, images that do not divide among processes and parts, or
    ``frozen`` names that no parameter has.
    """
    images = config.loss.images if config.data is None else config.view_loss.images
    if config.frames is not None:
        images = config.depth_loss.images
    part_of(images, 0, ranks.here()[1] * config.loop.accumulate)
    torch.manual_seed(config.loop.seed)
    model: Any = make_model(config.family, config.model, "model")
    freeze(model, config.frozen)
    if ranks.first():  # the others receive its weights
        _start(model, config)
    settings = configuration.to_mapping(config)
    settings["loop"] = {key: value for key, value in settings["loop"].items() if key not in NOT_COMPARED}
    return Trainer(
        model,
        task.loss,
        config.loop,
        task.batches,
        task.validate,
        out,
        settings,
        ranks.device(device),
        task.item_name,
    )


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Parameters with these prefixes learn no more. Raises ``ValueError`` for a prefix of none of them."""
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        found = [parameter for name, parameter in parameters.items() if name.startswith(prefix)]
        if not found:
            parts = ", ".join(dict.fromkeys(name.split(".")[0] + "." for name in parameters))
            raise ValueError(
                f"frozen: got {prefix!r}, with which the name of no parameter begins, expected names in one of "
                f"{parts}; correct it or leave it out"
            )
        for parameter in found:
            parameter.requires_grad_(False)


def _start(model: nn.Module, config: TrainConfig) -> None:
    if config.start_from:
        start_from_artifact(model, config.start_from, config.labels)
        return
    if config.imagenet:
        start_from_imagenet(model)
    if config.start_density > 0:
        start_with_density(model, config.start_density)
    if config.lseg:
        start_with_language(model, config.lseg, config.labels, config.vocabulary)


def write_best(config: TrainConfig, task: Task, out: Path, source: str) -> Path:
    """The best checkpoint in ``out`` as ``out/artifact``, exported and checked; returns that folder.

    Matrices are rounded to float16 once, so that torch and ONNX read the same numbers. A model that only torch runs
    stays without the files of other runtimes. source: name of the recipe.
    """
    saved = torch.load(out / BEST, map_location="cpu", weights_only=True)
    model: Any = make_model(config.family, config.model, "model")
    fill(model, saved["averaged"], str(out / BEST))
    manifest = Manifest(
        family=config.family,
        config=configuration.to_mapping(model.config),
        labels=config.labels,
        branches=branches_of(config),
        camera=task.camera,
        z_near=model.config.z_near,
        z_far=model.config.z_far,
        input=Manifest.input if config.frames is None else FRAMES_INPUT,
        licences=licences_of(config, model.config.encoder, task.source),
        provenance={
            "recipe": source,
            "kyn": __version__,
            "seed": config.loop.seed,
            "step": saved["step"],
            "validation score": round(saved["best"], 4),
            **start_of(config),
        },
    )
    artifact = write_artifact(out / "artifact", manifest, {WEIGHTS: weights_file(model, half=True)})
    try:
        model.exportable()
    except ValueError as error:
        print(f"only torch runs this model ({error})")
        return artifact.path
    _, agreements = export(artifact.path)
    for agreement in agreements:
        print(f"{agreement.runtime}: within {agreement}")
    return artifact.path
