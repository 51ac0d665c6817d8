"""The predictor of any artifact: one image becomes density, or posed frames become depth. numpy only."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from kyn_models import runtimes
from kyn_models.artifact import Artifact
from kyn_models.depth_predictor import DepthPredictor
from kyn_models.models import FRAME_FAMILIES
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import PREDICTED_FAMILIES, Predictor
from kyn_models.runtimes.queries import Precision
from kyn_models.types import VoxelGridSpec

log = logging.getLogger(__name__)

AnyPredictor = Predictor | DepthPredictor


def make_predictor(
    artifact: Artifact,
    runtime: str = "auto",
    spec: VoxelGridSpec | None = None,
    grid: GridOptions | None = None,
    depth_rays: tuple[int, int] = (96, 320),
    metric_scale: float = 1.0,
    hood_mask: np.ndarray | None = None,
    warn: runtimes.Warn = log.warning,
    precision: Precision = "auto",
    say: Callable[[str], None] = log.info,
) -> AnyPredictor:
    """The model of an artifact, ready to be asked; arguments and errors as ``Predictor``'s.

    depth_rays is for families that render depth; the others have one for each pixel.
    Raises ``ValueError`` for a family of neither kind.
    """
    family = artifact.manifest.family
    if family in PREDICTED_FAMILIES:
        return Predictor(
            artifact, runtime, spec, grid, depth_rays, metric_scale, hood_mask, warn=warn, precision=precision, say=say
        )
    if family in FRAME_FAMILIES:
        return DepthPredictor(
            artifact, runtime, spec, grid, metric_scale, hood_mask, warn=warn, precision=precision, say=say
        )
    known = ", ".join((*PREDICTED_FAMILIES, *sorted(FRAME_FAMILIES)))
    raise ValueError(f"{artifact.path}: got a model of family {family!r}, expected one of {known}")


def require_density(artifact: Artifact, what: str) -> None:
    """Raises ``ValueError`` for a model that says depth, not density. what: needs density, as a command is called."""
    if artifact.manifest.family in FRAME_FAMILIES:
        raise ValueError(
            f"{what}: got {artifact.name}, which says the depth of what is seen and no density behind it, "
            f"expected a model of family {' or '.join(PREDICTED_FAMILIES)}"
        )
