"""Model families: one file each, one entry each. Importing this package does not import torch."""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, str, str]] = {
    "bts": ("kyn_models.models.bts", "BtsConfig", "Bts"),
    "kyn": ("kyn_models.models.kyn", "KynConfig", "Kyn"),
}
"""Key of a family to its module and the names of its configuration and model classes there."""
