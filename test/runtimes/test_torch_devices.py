"""Plain torch of ``kyn`` keeps every tensor of a step on its device: shown without a GPU.

Torch's device "meta" computes shapes alone and refuses most of what mixes its tensors with those of the CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime is torch")

from artifacts import seeded_kyn, write_seeded_artifact

from kyn_models.runtimes.queries import LabelQuery, PointQuery, Query, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch


def test_all_tensors_of_a_step_are_on_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This device has no mixed precision that could be switched off.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    artifact = write_seeded_artifact(tmp_path, seeded_kyn(), width=160, height=64)
    where = np.ones((50, 3), np.float32)
    queries: dict[str, Query] = {
        "depth": RayQuery(where.reshape(5, 10, 3)),
        "density": PointQuery(where, points_per_call=20),
        "labels": LabelQuery(where),
    }
    runtime = PlainTorch(artifact, "meta")
    with torch.inference_mode():
        field = runtime._encode(np.zeros((64, 160, 3), np.uint8))
        for name, query in queries.items():
            answer = runtime._answer(field, query, runtime._tensor(query))
            assert answer.device.type == "meta" and answer.numel() == 50, name
        runtime._k_norm = runtime._k_norm.new_ones(runtime._k_norm.shape, device="cpu")
        with pytest.raises(RuntimeError, match="device"):
            runtime._answer(field, queries["labels"], torch.empty(50, 3, device="meta"))
