"""Plain torch of ``kyn`` keeps every tensor on its device: shown on a machine without a GPU.

Torch runs the operations without numbers, for tensors that claim to be on a GPU, and refuses to mix devices as a GPU
does. This says nothing about what a GPU computes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime is torch")

from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts import seeded_kyn, write_seeded_artifact

from kyn_models.models.loading import load_model
from kyn_models.runtimes import torch_runtime
from kyn_models.runtimes.queries import LabelQuery, PointQuery, Query, RayQuery


def pretend(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Weights without numbers on a GPU."""
    for module in model.modules():
        for stored in (module._parameters, module._buffers):
            for name, value in stored.items():
                stored[name] = None if value is None else mode.from_tensor(value).to("cuda:0")


def test_all_tensors_of_a_step_are_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = write_seeded_artifact(tmp_path, seeded_kyn(), width=160, height=64)
    model = load_model(artifact)
    monkeypatch.setattr(torch_runtime, "load_model", lambda artifact: model)
    where = np.ones((50, 3), np.float32)
    queries: dict[str, Query] = {
        "depth": RayQuery(where.reshape(5, 10, 3)),
        "density": PointQuery(where, points_per_call=20),
        "labels": LabelQuery(where),
    }
    with FakeTensorMode() as mode, torch.no_grad():
        pretend(model, mode)
        monkeypatch.setattr(model, "to", lambda device: model)  # it is there, and cannot be moved without a GPU
        runtime = torch_runtime.PlainTorch(artifact, "cuda:0")
        field = runtime._encode(np.zeros((64, 160, 3), np.uint8))
        for name, query in queries.items():
            answer = runtime._answer(field, query, runtime._tensor(query))
            assert answer.device.type == "cuda" and answer.numel() == 50, name
        with pytest.raises(RuntimeError, match="device"):
            runtime._answer(field, queries["density"], torch.from_numpy(where))
