"""TensorRT-RTX compiles multi-frame depth of both backbones at the published size. Running it needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="making an artifact needs torch")
onnx = pytest.importorskip("onnx", reason="the weights of the graph are counted")
pytest.importorskip("tensorrt_rtx", reason="optional: pip install 'kyn[tensorrt-rtx]'")

from kyn_models.artifact import MULTIFRAME, WEIGHTS
from kyn_models.graphs import frame_graph
from kyn_models.models.dymultidepth import DyMultiDepthConfig
from kyn_models.models.seeded import seeded_frames, write_seeded_frames
from kyn_models.runtimes.engine_build import Request
from kyn_models.runtimes.engine_process import build_in_process
from kyn_models.runtimes.frame_queries import camera_matrix

pytestmark = pytest.mark.huge


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_b5"])
def test_the_graph_of_the_published_size_compiles(encoder: Any, tmp_path: Path) -> None:
    model = seeded_frames(DyMultiDepthConfig(encoder=encoder))
    artifact = write_seeded_frames(tmp_path / "model", model)
    image = torch.zeros(1, artifact.camera.height, artifact.camera.width, 3, dtype=torch.uint8)
    asked = {
        "image": image,
        "neighbours": image.repeat(2, 1, 1, 1),
        "k": torch.from_numpy(camera_matrix(artifact.camera)),
        "neighbour_from_key": torch.eye(4).repeat(2, 1, 1),
    }
    path = artifact.path / MULTIFRAME
    path.write_bytes(frame_graph(model.exportable().whole, asked, ("fused", "mono"), artifact.file(WEIGHTS)))
    weights = sum(
        int(next(entry.value for entry in tensor.external_data if entry.key == "length"))
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer
        if tensor.external_data
    )
    said: list[str] = []
    plan, _ = build_in_process(Request("tensorrt_rtx", str(path), {}, 1 << 31), b"", said.append)
    print(f"{encoder}: {weights} bytes of weights, engine of {len(plan)} bytes, {said[-1]}")
    assert weights > 3e7 and len(plan) > weights
