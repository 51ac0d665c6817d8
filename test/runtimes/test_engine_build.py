"""TensorRT-RTX compiles every graph in every precision, through the code that a robot runs. That needs no GPU.

Running what comes out does need one: numbers are compared in test_fused.py, with other runtimes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="pip install 'kyn[tensorrt-rtx]'")

from kyn_models.artifact import ENGINES, Artifact, default_artifact
from kyn_models.runtimes.engine_build import BuildFailed, Request
from kyn_models.runtimes.engine_process import build_in_process
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.tensorrt_library import find_library
from kyn_models.runtimes.tensorrt_runtime import WORKSPACES, kinds_for, shapes_of


def request_for(artifact: Artifact, precision: str) -> Request:
    shapes = shapes_of(kinds_for(artifact, LoadOptions()))
    return Request("tensorrt_rtx", str(artifact.file(ENGINES[precision])), shapes, WORKSPACES[artifact.manifest.family])


@pytest.mark.parametrize("precision", list(ENGINES))
@pytest.mark.parametrize("model", ["tiny", "tiny_kyn", "shipped"])
def test_every_graph_compiles(model: str, precision: str, request: pytest.FixtureRequest) -> None:
    made = {"tiny": "tiny_artifact", "tiny_kyn": "tiny_kyn"}
    artifact = Artifact.load(request.getfixturevalue(made[model]) if model in made else default_artifact())
    said: list[str] = []
    plan, timing = build_in_process(request_for(artifact, precision), b"", said.append)
    weights = {"tiny": 3e6, "tiny_kyn": 10e6, "shipped": 5e6}[model] * {"float32": 4, "float16": 2}[precision]
    assert len(plan) > weights and timing == b""
    assert said[0].startswith("building the engine, 0 s so far") and said[-1].startswith("built the engine in ")


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"no graph")
    with pytest.raises(BuildFailed, match=r"the engine builder failed: .*engine\.onnx is not understood: ") as caught:
        build_in_process(Request("tensorrt_rtx", str(tmp_path / "engine.onnx"), {}, 1 << 30), b"", lambda text: None)
    assert "\n" not in str(caught.value)


def test_the_installed_version_is_one_that_is_known() -> None:
    assert find_library(("tensorrt_rtx",)).title.startswith("TensorRT-RTX 1.")


def test_a_product_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="the engine builder failed: .*nowhere_rt"):
        build_in_process(Request("nowhere_rt", "x.onnx", {}, 1 << 30), b"", lambda text: None)
