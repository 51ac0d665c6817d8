"""The test that is stored in an artifact: what is asked, and how far a runtime's answers are from those stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kyn_models.artifact import SELFTEST, Artifact
from kyn_models.npz import read_npz
from kyn_models.runtimes.queries import LabelQuery, PointQuery, Query, RayQuery


class Differences(NamedTuple):
    """density, depth_m: absolute errors, beside the values they are of (``true_``). sky, labels: shares that differ.

    Where the label of a point or ray differs, its density is another one's: it counts in ``labels`` alone.
    """

    density: np.ndarray
    true_density: np.ndarray
    depth_m: np.ndarray
    true_depth_m: np.ndarray
    sky: float
    labels: float


def selftest_queries(artifact: Artifact, test: Mapping[str, np.ndarray]) -> dict[str, Query]:
    """Depth along ``directions`` and density at ``points``; of families with labels those of both too."""
    queries: dict[str, Query] = {"depth": RayQuery(test["directions"]), "density": PointQuery(test["points"])}
    if artifact.manifest.labels:
        queries["labels"] = LabelQuery(test["points"])
        queries["ray_labels"] = LabelQuery(test["directions"].reshape(-1, 3))
    return queries


def read_selftest(artifact: Artifact) -> dict[str, np.ndarray]:
    """The stored image, what is asked about it, and the answers. Raises ``ValueError`` for a damaged file."""
    names = ("image", "directions", "points", "depth", "density")
    labels = ("labels", "ray_labels") if artifact.manifest.labels else ()
    return read_npz(artifact.file(SELFTEST), (*names, *labels), "`kyn export` writes a new one")


def compare(answer: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> Differences:
    """The answers of a runtime against those stored."""
    same, same_ray, labels = np.True_, np.True_, 0.0
    if "labels" in test:
        same, same_ray = answer["labels"] == test["labels"], answer["ray_labels"] == test["ray_labels"]
        labels = float(np.mean(~np.concatenate([same, same_ray])))
        same_ray = same_ray.reshape(test["depth"].shape)
    stored, given = test["depth"], answer["depth"]
    finite = np.isfinite(stored) & np.isfinite(given) & same_ray
    compared = np.broadcast_to(same, test["density"].shape)
    return Differences(
        np.abs(answer["density"] - test["density"])[compared],
        test["density"][compared],
        np.abs(given[finite] - stored[finite]),
        stored[finite],
        float(np.mean((np.isinf(stored) != np.isinf(given)) & same_ray)),
        labels,
    )
