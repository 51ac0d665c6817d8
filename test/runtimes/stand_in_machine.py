"""A machine with stand-ins for a GPU, its driver and TensorRT, for tests of the TensorRT runtime."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kyn_models import runtimes
from kyn_models.artifact import Artifact
from kyn_models.runtimes import cuda, tensorrt_runtime
from kyn_models.runtimes.queries import LoadOptions

STAND_IN = Path(__file__).parent / "stand_in"
OPTIONS = LoadOptions(device="cuda", precision="float32", rays=500, points=3000)


class Machine:
    """A machine with a stand-in GPU and TensorRT. said: all progress of what was loaded with ``options``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._monkeypatch, self.log = monkeypatch, tmp_path / "builds"
        self.said: list[str] = []
        monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
        monkeypatch.syspath_prepend(str(STAND_IN))
        monkeypatch.setattr(tensorrt_runtime, "POINTS_STEP", 512)
        monkeypatch.setattr(runtimes, "gpu_count", lambda: 1)
        self.driver = self.become()

    def become(self, **what: object):
        """Another library; see the stand-in for what it can be."""
        self._monkeypatch.setenv("KYN_STAND_IN", json.dumps({"log": str(self.log), **what}))
        sys.modules.pop("tensorrt", None)
        library = importlib.import_module("tensorrt")
        self._monkeypatch.setitem(sys.modules, "tensorrt", library)
        self.driver = importlib.import_module("cuda_driver").Driver(library)
        self._monkeypatch.setattr(cuda, "load_library", lambda name: self.driver)
        return self.driver

    @property
    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def load(self, artifact: Artifact, options: LoadOptions = OPTIONS):
        return tensorrt_runtime.load(artifact, replace(options, say=self.said.append))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def assert_equal_to(plain: dict, answer: dict) -> None:
    for name, values in answer.items():
        assert values.shape == plain[name].shape and values.dtype == np.float32
        np.testing.assert_allclose(values, plain[name], rtol=1e-3, atol=1e-3 if name == "depth" else 1e-4)
