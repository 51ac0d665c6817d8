"""The predictor of any artifact: one image becomes density, or posed frames become depth. numpy only."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kyn_models import cells, runtimes
from kyn_models.artifact import Artifact
from kyn_models.field_model import FieldModel
from kyn_models.frames_model import FramesModel, no_density
from kyn_models.models import FRAME_FAMILIES
from kyn_models.predictor import PREDICTED_FAMILIES, Model, Predictor, PredictorOptions

log = logging.getLogger(__name__)


def make_predictor(
    artifact: Artifact,
    options: PredictorOptions = PredictorOptions(),  # noqa: B008 - frozen
    warn: runtimes.Warn = log.warning,
    say: Callable[[str], None] = log.info,
) -> Predictor:
    """The model of a checked artifact, ready to be asked.

    warn: receives a sentence for each runtime that ``auto`` passed over (see ``Predictor``); say: progress.
    Raises ``ValueError`` for a family of neither kind or a grid that does not fit into the memory, ``RuntimeFailed``.
    """
    # Asked before the model is loaded, which takes seconds.
    cells.require_memory(options.spec)
    passed_over: list[str] = []

    def pass_over(sentence: str) -> None:
        passed_over.append(sentence)
        warn(sentence)

    model = _load(artifact, options, pass_over, say)
    return Predictor(artifact, model, options, tuple(passed_over))


def _load(artifact: Artifact, options: PredictorOptions, warn: runtimes.Warn, say: Callable[[str], None]) -> Model:
    family = artifact.manifest.family
    if family in PREDICTED_FAMILIES:
        return FieldModel(artifact, options, warn, say)
    if family in FRAME_FAMILIES:
        return FramesModel(artifact, options, warn, say)
    known = ", ".join((*PREDICTED_FAMILIES, *sorted(FRAME_FAMILIES)))
    raise ValueError(f"{artifact.path}: got a model of family {family!r}, expected one of {known}")


def require_density(artifact: Artifact, what: str) -> None:
    """Raises ``ValueError`` for a model that says depth, not density. what: needs density, as a command is called."""
    if artifact.manifest.family in FRAME_FAMILIES:
        raise ValueError(no_density(artifact, what))
