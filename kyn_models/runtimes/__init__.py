"""Runtimes behind one seam. A runtime imports its own library only when it is chosen.

``auto`` takes the first that passes a self-test against outputs stored in the artifact; a named one that fails is an
error. Without stored outputs ``auto`` takes plain torch only: it is the reference that they would come from.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from kyn_models.artifact import SELFTEST, Artifact
from kyn_models.runtimes.cuda_device import gpu_count
from kyn_models.runtimes.queries import PRECISIONS, LoadOptions, NoDevice, Runtime
from kyn_models.runtimes.selftest import compare, read_selftest, selftest_queries

log = logging.getLogger(__name__)

RUNTIMES: dict[str, tuple[str, str]] = {
    "tensorrt": ("kyn_models.runtimes.tensorrt_runtime", "see docs/tensorrt.md"),
    "openvino": ("kyn_models.runtimes.openvino_runtime", "pip install openvino numba"),
    "onnxruntime": ("kyn_models.runtimes.onnxruntime_runtime", "pip install onnxruntime numba"),
    "torch": ("kyn_models.runtimes.torch_runtime", "pip install torch safetensors"),
}
"""Name of a runtime to its module (which has ``load(artifact, options) -> Runtime``) and how to get its library."""

AUTO = (("tensorrt", "cuda"), ("torch", "cuda"), ("openvino", "cpu"), ("onnxruntime", "cpu"), ("torch", "cpu"))
"""The order of ``auto``: (runtime, device)."""

NAMES = ("auto", *RUNTIMES)

Warn = Callable[[str], None]
T = TypeVar("T")
_Load = Callable[[str, LoadOptions, bool], T]
"""``load(name, options, untested)``: a runtime that has passed the artifact's test; ``untested``: also where there is
none."""


class RuntimeFailed(ValueError):
    """A runtime that was asked for cannot be used; the message says why and what to do."""


def choose(
    name: str,
    artifact: Artifact,
    warn: Warn = log.warning,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> Runtime:
    """The runtime called ``name`` (or the first of ``auto`` that works), loaded and self-tested.

    ``warn`` receives one sentence per runtime that ``auto`` passed over although its library and its device are there.
    The device of ``options`` is not read: each runtime knows its own. Raises ``RuntimeFailed`` if none works,
    ``ValueError`` for an unknown name or precision.
    """
    modules = {name: module for name, (module, _) in RUNTIMES.items()}
    return choose_from(modules, self_test, name, artifact, warn, options)


def choose_from(
    modules: Mapping[str, str],
    test: Callable[[T, Artifact], object],
    name: str,
    artifact: Artifact,
    warn: Warn,
    options: LoadOptions,
) -> T:
    """``choose`` for runtimes of any kind.

    modules: name to module, which has ``load(artifact, options)``. test: compares with the outputs that the artifact
    stores, and raises ``RuntimeFailed``. Raises as ``choose``.
    """

    def load(name: str, options: LoadOptions, untested: bool) -> T:
        require_device(options)
        module = importlib.import_module(modules[name])
        if not untested:
            artifact.file(SELFTEST)
        runtime: T = module.load(artifact, options)
        if SELFTEST in artifact.manifest.files:
            test(runtime, artifact)
        return runtime

    if options.precision not in PRECISIONS:
        raise ValueError(f"precision: got {options.precision!r}, expected one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return _first_that_works(load, warn, options)
    if name not in RUNTIMES:
        raise ValueError(f"runtime: got {name!r}, expected one of {', '.join(NAMES)}")
    failure = ""
    for device in (device for known, device in AUTO if known == name):
        try:
            return load(name, replace(options, device=device), True)
        except NoDevice as error:
            failure = _reason(name, error)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            # A device that is there and fails is an error too: nobody wants the CPU instead without being told.
            raise RuntimeFailed(f"runtime {name}: {_reason(name, error)}") from error
    raise RuntimeFailed(f"runtime {name}: {failure}")


def _first_that_works(load: _Load[T], warn: Warn, options: LoadOptions) -> T:
    failures = []
    for name, device in AUTO:
        try:
            return load(name, replace(options, device=device), name == "torch")
        except (ImportError, NoDevice) as error:
            failures.append(f"{name}: {_reason(name, error)}")
        except (OSError, RuntimeError, ValueError) as error:
            failures.append(f"{name} on {device}: {_reason(name, error)}")
            warn(f"runtime {failures[-1]}; trying the next one")
    raise RuntimeFailed("no runtime works: " + "; ".join(dict.fromkeys(failures)))


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"not installed ({error}); {RUNTIMES[name][1]}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def require_device(options: LoadOptions) -> None:
    """Raises ``NoDevice`` where a GPU is wanted and there is none."""
    # Asked before the library is loaded: that takes seconds, which a robot without a GPU would pay for nothing.
    if options.device == "cuda" and gpu_count() == 0:
        raise NoDevice("no NVIDIA GPU found here by its driver (libcuda.so.1); use a runtime of the CPU")


def self_test(runtime: Runtime, artifact: Artifact) -> float:
    """Run the stored image and compare with the plain model's stored answers.

    Returns the largest density error. Raises ``RuntimeFailed`` if density or depth is off by more than the precision
    of the runtime explains: 1e-3 + 1e-2 sigma on 99 % of points, 1 % of the depth on 99 % of rays and 99 % of labels in
    float32; ``ValueError`` for a stored test that is damaged.
    """
    test = read_selftest(artifact)
    queries = selftest_queries(artifact, test)
    found = compare(runtime.prepare(queries)(test["image"], frozenset(queries)).arrays, test)
    wide = 1.0 if runtime.precision == "float32" else 20.0
    checks = {
        "density": _share(~(found.density <= wide * (1e-3 + 1e-2 * found.true_density))),
        "depth": _share(found.depth_m > 1e-2 * wide * found.true_depth_m),
        "sky": found.sky,
        # A label is the largest of many numbers: half precision changes it where the two best are near.
        "label": found.labels / (1.0 if runtime.precision == "float32" else 10.0),
    }
    require_few({f"{name} values": share for name, share in checks.items()}, artifact)
    return float(found.density.max(initial=0.0))


def require_few(shares: Mapping[str, float], artifact: Artifact) -> None:
    """shares: what was compared, and how much of it is wrong. Raises ``RuntimeFailed`` for more than 1 % of one."""
    what, share = max(shares.items(), key=lambda item: item[1])
    if share > 0.01:
        raise RuntimeFailed(
            f"self-test failed: {share:.1%} of its {what} differ from those stored in {artifact.path}, "
            "expected at most 1 %; use another runtime or export the model again"
        )


def _share(faults: np.ndarray) -> float:
    """Of true entries; 0 where nothing was compared."""
    return float(np.mean(faults)) if faults.size else 0.0
