"""The depth protocol of KITTI raw as published: Eigen et al. (2014), Garg et al. (2016) and the evaluator of Behind the
Scenes (CVPR 2023). numpy only.

Truth is the frame's one scan (``kyn_models.data.lidar_depth.published_returns``) where it is more than 1 mm and less
than 80 m away, inside the crop. The prediction is enlarged to the truth's size by nearest pixels and limited to 1 mm
.. 80 m. With median scaling it is first multiplied by the ratio of the two medians, each the lower of the two middle
values where their number is even. Scores are per frame, their means over the frames that have truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kyn_models.data.calibration import resized_source
from kyn_models.evaluate import DepthModel, sample_depth
from kyn_models.metrics import DepthScores, depth_scores
from kyn_models.types import Float32Array, Sample

NEAR_M, FAR_M = 1e-3, 80.0
GARG_CROP = ((0.40810811, 0.99189189), (0.03594771, 0.96405229))
"""Rows and columns (from, to) that count, as shares of the image size (Garg et al.)."""

Crop = Literal["garg", "none"]
Scaling = Literal["none", "median"]


class PublishedRow(NamedTuple):
    """Scores of one frame. factor: what the prediction was multiplied by (1 without scaling, NaN without truth).

    outside: truth pixels left out because the answer's image does not show them.
    """

    frame: str
    scaling: Scaling
    factor: float
    scores: DepthScores
    outside: int


def counted_truth(depth_m: Float32Array, crop: Crop) -> Float32Array:
    """(H, W) the truth that counts, NaN elsewhere. The crop's limits are cut to whole pixels, the upper exclusive."""
    with np.errstate(invalid="ignore"):
        counts = (depth_m > NEAR_M) & (depth_m < FAR_M)
    if crop == "garg":
        (top, bottom), (left, right) = (
            (int(low * size), int(high * size)) for (low, high), size in zip(GARG_CROP, depth_m.shape, strict=True)
        )
        inside = np.zeros_like(counts)
        inside[top:bottom, left:right] = True
        counts &= inside
    return np.where(counts, depth_m, np.float32(np.nan))


def enlarged(depth_m: Float32Array, shape: tuple[int, int]) -> Float32Array:
    """(h, w) at another size: pixel i takes floor(i * h / H), in float32, as the evaluator's interpolation does."""
    rows, columns = (
        np.floor(np.arange(size, dtype=np.float32) * np.float32(own / size)).astype(np.int64).clip(max=own - 1)
        for size, own in zip(shape, depth_m.shape, strict=True)
    )
    return depth_m[np.ix_(rows, columns)]


def median_factor(predicted: Float32Array, truth: Float32Array) -> float:
    """Ratio of the medians over the pixels with truth; NaN where there is none. Inf and NaN predictions are 80 m."""
    known = ~np.isnan(truth)
    if not known.any():
        return float("nan")
    guess = predicted[known]
    guess = np.where(np.isfinite(guess), guess, np.float32(FAR_M))
    return float(_lower_median(truth[known]) / _lower_median(guess))


def _lower_median(values: np.ndarray) -> np.floating:
    return np.partition(values, (values.size - 1) // 2)[(values.size - 1) // 2]


def published_rows(
    model: DepthModel,
    sample: Sample,
    depth_m: Float32Array,
    crop: Crop = "garg",
    scalings: Sequence[Scaling] = ("none", "median"),
    whole: bool = True,
    shown: Sample | None = None,
) -> list[PublishedRow]:
    """One row per scaling of a frame.

    depth_m: (H, W) metres, NaN unknown: the frame's published truth. whole: the model's depth image is that of the
    whole frame, resized; else it belongs to the camera that the model names, and what that does not show is left out
    and counted. shown: the sample whose image the model gets instead.
    """
    truth = counted_truth(depth_m, crop)
    predicted, camera = model.depth(shown or sample)
    outside = 0
    if whole:
        predicted = enlarged(predicted, truth.shape)
    else:
        source = resized_source(sample.observation.key.intrinsics, truth.shape[1], truth.shape[0])
        predicted, inside = sample_depth(predicted, camera, source)
        outside = int(np.count_nonzero(~np.isnan(truth) & ~inside))
        truth = np.where(inside, truth, np.float32(np.nan))
    return list(_scored(sample.name, predicted, truth, outside, scalings))


def _scored(
    name: str, predicted: Float32Array, truth: Float32Array, outside: int, scalings: Sequence[Scaling]
) -> Iterator[PublishedRow]:
    for scaling in scalings:
        factor = median_factor(predicted, truth) if scaling == "median" else 1.0
        scores = depth_scores(predicted * np.float32(factor), truth, NEAR_M, FAR_M)
        yield PublishedRow(name, scaling, factor, scores, outside)
