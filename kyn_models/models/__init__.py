"""Model families: one file each, one entry each. Importing this package does not import torch."""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, str, str]] = {
    "bts": ("kyn_models.models.bts", "BtsConfig", "Bts"),
    "kyn": ("kyn_models.models.kyn", "KynConfig", "Kyn"),
    "dymultidepth": ("kyn_models.models.dymultidepth", "DyMultiDepthConfig", "DyMultiDepth"),
}
"""Key of a family to its module and the names of its configuration and model classes there."""
FRAME_FAMILIES = frozenset({"dymultidepth"})
"""Those that give depth of a key frame from posed frames."""
ATTENDING_FAMILIES = frozenset({"kyn"})
"""Those whose density at a point depends on the other points asked for."""
POINTS_PER_CALL = 100_000
"""So many points of such a family look at each other in the authors' renderer, in the order in which they come."""


def published_points_per_call(family: str) -> int | None:
    """How many points look at each other in the authors' renderer; None for a family whose points do not."""
    return POINTS_PER_CALL if family in ATTENDING_FAMILIES else None
