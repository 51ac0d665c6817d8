"""``kyn doctor``: what is installed, which runtimes and which model work, what to do about each gap.

A gap that a job needs makes the exit code 1; everything else that is missing is listed with the way to get it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kyn_models import runtimes
from kyn_models.artifact import Artifact
from kyn_models.cli import REMEDIES, extra
from kyn_models.cli.model_options import add_model
from kyn_models.models import FRAME_FAMILIES
from kyn_models.runtimes.cuda_device import gpu_count
from kyn_models.runtimes.frame_queries import FramesRuntime
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import Runtime
from kyn_models.runtimes.tensorrt_library import find_library

PYTHONS = ((3, 10), (3, 12))
MARKS = {"ok": "ok", "gap": "GAP", "optional": "-"}


@dataclass(frozen=True)
class Check:
    """One line of the report. status: ``ok``, ``gap`` (a job needs it) or ``optional``; remedy: empty where ok."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    return report({"photos (kyn image)": checks(args.model)}, args.json)


def report(jobs: Mapping[str, Iterable[Check]], as_json: bool) -> int:
    """Print the checks of every job as they are made; 0 if all jobs can run, else 1.

    A job also needs what the jobs before it need.
    """
    made: list[Check] = []
    ready: dict[str, bool] = {}
    for job, job_checks in jobs.items():
        for found in job_checks:
            check = replace(found, remedy=for_this_python(found.remedy))
            made.append(check)
            if not as_json:
                remedy = f"; {check.remedy}" if check.remedy else ""
                print(f"{check.name:16s} {MARKS[check.status]:4s} {check.detail}{remedy}", flush=True)
        ready[job] = all(check.status != "gap" for check in made)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in made], "jobs": ready}, indent=2))
    else:
        for job, can_run in ready.items():
            gaps = ", ".join(check.name for check in made if check.status == "gap")
            print(f"{job}: {'ready' if can_run else f'not ready, see {gaps}'}")
    return 0 if all(ready.values()) else 1


def checks(model: Path) -> Iterator[Check]:
    """What every job needs: Python, the base libraries, a model, and at least one runtime that passes its self-test."""
    yield _python()
    for name, install in (("numpy", "numpy"), ("cv2", "opencv-python-headless"), ("yaml", "pyyaml")):
        yield library(name, f"pip install {install}", "gap")
    artifact: Artifact | None = None
    try:
        artifact = Artifact.load(model)
        yield Check("model", "ok", f"{artifact.name}, every file has its hash, weights: {_weights_licence(artifact)}")
    except (OSError, ValueError) as error:
        yield Check("model", "gap", str(error), "" if "artifact" in str(error) else "see `kyn import --help`")
    yield library("numba", extra("openvino"))
    yield _tensorrt()
    for name, (_, install) in runtimes.RUNTIMES.items():
        if name != "tensorrt":
            yield _runtime(name, REMEDIES.get(name, install), artifact)
    yield _automatic(artifact)


def library(module: str, remedy: str, missing: str = "optional", say: Callable[[Any], str] | None = None) -> Check:
    """Whether ``module`` can be imported. missing: the status if not. say: what to tell of it, else its version."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return Check(module, missing, "not installed", remedy)
    try:
        loaded = importlib.import_module(module)
        return Check(module, "ok", say(loaded) if say else str(getattr(loaded, "__version__", "installed")))
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything, and this is what doctor reports
        return Check(module, missing, f"installed, but does not work: {first_line(error)}", remedy)


def for_this_python(remedy: str) -> str:
    """A remedy whose ``pip`` is that of the running Python: a bare one may belong to another."""
    return remedy.replace("pip install", f"{shlex.quote(sys.executable)} -m pip install")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _python() -> Check:
    low, high = PYTHONS
    found = f"{platform.python_version()}, {sys.executable}"
    if low <= sys.version_info[:2] <= high:
        return Check("python", "ok", found)
    return Check("python", "gap", found, f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}")


def _weights_licence(artifact: Artifact) -> str:
    return artifact.manifest.licences.weights


def _runtime(name: str, install: str, artifact: Artifact | None) -> Check:
    installed = library(name, install)
    if installed.status != "ok" or artifact is None:
        return installed
    try:
        runtime = _chosen(name, artifact)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return Check(name, "optional", f"{installed.detail}: {first_line(error)}", "")
    return Check(name, "ok", f"{installed.detail}, runs the model in {runtime.precision}")


def _chosen(name: str, artifact: Artifact) -> Runtime | FramesRuntime:
    """The runtime of the artifact's kind. Raises as ``runtimes.choose``."""
    choose = choose_frames if artifact.manifest.family in FRAME_FAMILIES else runtimes.choose
    return choose(name, artifact, warn=lambda _: None)


def _tensorrt() -> Check:
    """Not tried: the first engine takes minutes."""
    try:
        title = find_library().title
    except ImportError:
        return Check("tensorrt", "optional", "not installed", "docs/tensorrt.md says what fits this machine")
    except RuntimeError as error:
        return Check("tensorrt", "optional", first_line(error), "docs/tensorrt.md says which versions work")
    if gpu_count() == 0:
        return Check("tensorrt", "optional", f"{title}, but no NVIDIA GPU is found by its driver", "")
    return Check("tensorrt", "ok", f"{title}; `kyn engine build` builds the engine before the node needs it")


def _automatic(artifact: Artifact | None) -> Check:
    if artifact is None:
        return Check("runtime", "gap", "not tried without a model", "first see to the model")
    try:
        return Check("runtime", "ok", f"auto takes {_chosen('auto', artifact).name}")
    except runtimes.RuntimeFailed as error:
        return Check("runtime", "gap", first_line(error), extra("openvino"))
