"""The environment that large images need, for every process that kyn starts; and what of it ROS would choke on."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Fast DDS 3 (Kilted and later) reads the first, Fast DDS 2 (Humble, Jazzy) the second."""
LIBRARIES = ("libfastdds.so*", "libfastrtps.so*")
"""The library whose presence tells that its variable is read, in the order of ``PROFILE_VARIABLES``."""
HIGHEST_DOMAIN = 232


def prefixes(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where ROS 2 and overlays are installed: the entries of AMENT_PREFIX_PATH, then Python's own prefix (pip)."""
    named = environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [*(Path(entry) for entry in named if entry), Path(sys.prefix)]


def shared_file(relative: str) -> Path:
    """A file of ``share/kyn``: from the source tree, from pip's prefix, or from an overlay on AMENT_PREFIX_PATH.

    relative: such as ``config/fastdds.xml``. Raises ``FileNotFoundError`` naming the places that were searched.
    """
    package = Path(__file__).resolve().parent
    # colcon installs Python packages to <prefix>/lib/pythonX.Y/site-packages.
    searched = [*prefixes(), *package.parents[:5]]
    places = [package.parent / relative, *(prefix / "share/kyn" / relative for prefix in searched)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{relative}: not found below {', '.join(map(str, places[:2]))}; install kyn again")


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ``ValueError`` with one sentence for what the ROS libraries refuse without one, or die of."""
    domain = environment.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isdecimal() and int(domain) <= HIGHEST_DOMAIN):
        raise ValueError(f"ROS_DOMAIN_ID: got {domain!r}, expected 0 to {HIGHEST_DOMAIN}")
    wanted, installed = environment.get("RMW_IMPLEMENTATION", ""), rmw_implementations(environment)
    if wanted and installed and wanted not in installed:
        raise ValueError(
            f"RMW_IMPLEMENTATION: got {wanted}, expected what is installed here ({', '.join(installed)}); "
            "unset it, or install that one"
        )
    for variable in PROFILE_VARIABLES:
        profile = environment.get(variable, "")
        if profile and not Path(profile).is_file():
            raise ValueError(
                f"{variable}: got {profile}, which does not exist, expected a Fast DDS profile; "
                "unset it to have the one of kyn"
            )


def rmw_implementations(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the installed ROS middlewares, as RMW_IMPLEMENTATION takes them; empty where none is registered."""
    folders = [prefix / "share/ament_index/resource_index/rmw_typesupport" for prefix in prefixes(environment)]
    found = {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()}
    return sorted(found - {"rmw_implementation"})  # the package that loads one of the others


def profile_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that the installed Fast DDS reads; both where its version cannot be told.

    Fast DDS 3 warns about the variable of version 2 in every process.
    """
    folders = [prefix / "lib" for prefix in prefixes(environment)]
    found = [any(any(folder.glob(library)) for folder in folders) for library in LIBRARIES]
    return [name for name, here in zip(PROFILE_VARIABLES, found, strict=True) if here or not any(found)]


def set_fastdds_profile(environment: MutableMapping[str, str] = os.environ) -> None:
    """Name the Fast DDS profile for large images in ``environment``, unless the user named one already.

    For this process it has to happen before ``rclpy.init``.
    """
    if not any(variable in environment for variable in PROFILE_VARIABLES):
        environment.update(dict.fromkeys(profile_variables(environment), str(shared_file("config/fastdds.xml"))))


def prepare_environment() -> None:
    """This process and its children ready for ROS; raises ``ValueError`` as ``check_environment`` does.

    ``ModuleNotFoundError`` for rclpy where there is no ROS, whichever of its packages would be missed first.
    """
    check_environment()
    if importlib.util.find_spec("rclpy") is None:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")
    set_fastdds_profile()
