"""The environment that large images need, for every process that kyn starts."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Fast DDS 3 (Kilted and later) reads the first, Fast DDS 2 (Humble, Jazzy) the second."""


def shared_file(relative: str) -> Path:
    """A file of ``share/kyn``: from the source tree, from pip's prefix, or from an overlay on AMENT_PREFIX_PATH.

    relative: such as ``config/fastdds.xml``. Raises ``FileNotFoundError`` naming the places that were searched.
    """
    package = Path(__file__).resolve().parent
    prefixes = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    # colcon installs Python packages to <prefix>/lib/pythonX.Y/site-packages.
    prefixes += [Path(sys.prefix), *package.parents[:5]]
    places = [package.parent / relative, *(prefix / "share/kyn" / relative for prefix in prefixes)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{relative}: not found below {', '.join(map(str, places[:2]))}; install kyn again")


def set_fastdds_profile(environment: MutableMapping[str, str] = os.environ) -> None:
    """Name the Fast DDS profile for large images in ``environment``, unless the user named one already.

    For this process it has to happen before ``rclpy.init``.
    """
    if not any(variable in environment for variable in PROFILE_VARIABLES):
        profile = str(shared_file("config/fastdds.xml"))
        environment.update(dict.fromkeys(PROFILE_VARIABLES, profile))
