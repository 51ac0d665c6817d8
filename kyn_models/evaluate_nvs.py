"""Novel view synthesis by the published protocol: PSNR, SSIM and LPIPS of a second view. numpy; LPIPS brings torch.

Behind the Scenes (CVPR 2023), after Tucker and Snavely (2020): the model gets the key frame, renders the second view
(KITTI: the stereo partner; RealEstate10K: the fifth frame after), both are compared without 5 % at each edge, and
scores are averaged over frames. As the authors' evaluator does it: rays from edge to edge of the image and of length 1,
the last sample solid, colours of the key image alone, borders continued where it shows nothing, image coordinates by
the published normalised camera (half a pixel off). Samples lie in the middle of their steps (there: at random). Points
of a model that attend to each other do so in runs of 100,000, from the first sample of the view on (there: of the key
frame's own view, which is rendered before it). What the model gets is the whole image, resized once to the model's own
size (``kyn_models.published_rays``; there: twice, to sizes of which their repository states one), or the image as on a
robot, warped to its training camera (``PredictorViews``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from kyn_models.image_metrics import psnr, ssim
from kyn_models.models import published_points_per_call
from kyn_models.novel_view import Field, NovelView, Scene, Source, between, centred, corner_rays, render
from kyn_models.predictor import Predictor
from kyn_models.runtimes.queries import SAMPLES_PER_RAY
from kyn_models.types import Float32Array, Float64Array, Intrinsics, PosedFrame, Sample

BORDER = 0.05
Distance = Callable[[np.ndarray, np.ndarray], float]
"""Of two (H, W, 3) pictures in 0..1: LPIPS."""


@dataclass(frozen=True)
class NvsOptions:
    """width, height: at which pictures are rendered and compared. samples: per ray."""

    width: int = 640
    height: int = 192
    samples: int = SAMPLES_PER_RAY

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 16:
            raise ValueError(f"size: got {self.width}x{self.height}, expected at least 16x16 pixels")

    def picture(self, frame: PosedFrame) -> Float32Array:
        """(height, width, 3) float32 in 0..1 of a frame, resized between the four nearest pixels as published."""
        size = (self.width, self.height)
        return cv2.resize(frame.image.astype(np.float32) / 255, size, interpolation=cv2.INTER_LINEAR)


class ViewModel(Protocol):
    """Answers about second views."""

    def view(self, sample: Sample, options: NvsOptions) -> Float32Array:
        """(options.height, options.width, 3) float32 in 0..1: what the camera of the sample's first view sees."""


class NvsScores(NamedTuple):
    """psnr in dB, ssim; lpips is NaN where it was not computed."""

    psnr: float
    ssim: float
    lpips: float


class NvsRow(NamedTuple):
    """Scores of one answer about one frame."""

    frame: str
    answer: str
    scores: NvsScores


class PredictorViews:
    """A ``Predictor``'s views, rendered by the published protocol from the image as a robot has it: warped to the
    training camera."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def view(self, sample: Sample, options: NvsOptions) -> Float32Array:
        manifest = self._predictor.artifact.manifest
        sources = (published_source(sample, options),)
        each = published_points_per_call(manifest.family)
        scene = Scene.of(self._predictor, sample.observation, sources, "continued", each)
        return published_view(scene, sample, options, (manifest.z_near, manifest.z_far)).colours


class TrueDepthViews:
    """What a perfect depth map of the key frame would give; for samples with ``depth_m``."""

    def view(self, sample: Sample, options: NvsOptions) -> Float32Array:
        if sample.depth_m is None:
            raise ValueError(f"{sample.name}: got no depth_m, expected a sample with true depth")
        field = depth_field(sample.depth_m, sample.observation.key.intrinsics)
        scene = Scene(field, (published_source(sample, options),), outside="continued")
        return published_view(scene, sample, options, (2.0, 200.0)).colours


class UnmovedViews:
    """The key image itself: what knowing nothing about space is worth."""

    def view(self, sample: Sample, options: NvsOptions) -> Float32Array:
        return options.picture(sample.observation.key)


def depth_field(depth_m: np.ndarray, camera: Intrinsics, density: float = 1e3) -> Field:
    """A field that is solid from the depth of each point's pixel on; the border's pixels are continued.

    depth_m: (H, W) of ``camera``, +Inf sky, NaN empty.
    """
    k_norm = centred(camera)

    def field(points: Float32Array) -> Float32Array:
        z = np.maximum(points[:, 2], 1e-3)
        at = (
            ((points[:, :2] / z[:, None] * np.diag(k_norm)[:2] + k_norm[:2, 2]) + 1) * (camera.width, camera.height) / 2
        )
        limits = (camera.width - 1, camera.height - 1)
        column, row = np.clip(np.floor(at), 0, limits).astype(np.int64).T
        with np.errstate(invalid="ignore"):
            return np.where(z >= depth_m[row, column], np.float32(density), np.float32(0))

    return field


def score_views(
    models: Mapping[str, ViewModel], sample: Sample, options: NvsOptions, lpips: Distance | None = None
) -> list[NvsRow]:
    """One row per model. The first of the sample's ``views`` is the truth; it and the key frame have poses.

    Raises ``ValueError`` for a sample without a posed view.
    """
    _require_view(sample)
    truth = inner(options.picture(sample.views[0]))
    rows = []
    for name, model in models.items():
        answer = inner(model.view(sample, options))
        distance = lpips(answer, truth) if lpips else math.nan
        rows.append(NvsRow(sample.name, name, NvsScores(psnr(answer, truth), ssim(answer, truth), distance)))
    return rows


def inner(picture: np.ndarray) -> np.ndarray:
    """The picture without 5 % at each edge, rounded as published."""
    height, width = picture.shape[:2]
    rows = slice(math.ceil(BORDER * height), math.floor((1 - BORDER) * height))
    return picture[rows, math.ceil(BORDER * width) : math.floor((1 - BORDER) * width)]


def mean_nvs(rows: Iterable[NvsRow], answer: str) -> NvsScores:
    """Means of one answer over all frames."""
    scores = np.array([row.scores for row in rows if row.answer == answer], dtype=np.float64)
    return NvsScores(*(float(value) for value in scores.mean(axis=0)))


def _require_view(sample: Sample) -> None:
    if not sample.views:
        raise ValueError(f"{sample.name}: got no further view, expected the one to be synthesised")
    for what, frame in (("key frame", sample.observation.key), ("view", sample.views[0])):
        if frame.world_from_camera is None:
            raise ValueError(f"{sample.name}: got a {what} without a pose, expected world_from_camera")


def published_source(sample: Sample, options: NvsOptions) -> Source:
    """The key frame as the one source of colours."""
    key = sample.observation.key
    return Source(options.picture(key), key.intrinsics.normalised(), np.eye(4))


def published_view(scene: Scene, sample: Sample, options: NvsOptions, range_m: tuple[float, float]) -> NovelView:
    """What the camera of the sample's first view sees of a scene, between the two distances."""
    target = sample.views[0]
    rays = corner_rays(target.intrinsics.normalised(), options.width, options.height, *range_m)
    key_from_target: Float64Array = between(sample.observation.key, target)
    return render(scene, rays, key_from_target, options.samples)
