"""The authors' depths at their own size, through every runtime of the CPU; weights follow from their names.

On a white sky rounding decides of a pixel whether a neighbour counts. Networks that learned nothing make much of such a
pixel for all around it: up to 0.3 % of the fused depths may be off by more than the bound of the recorded ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="making an artifact needs torch")
pytest.importorskip("numba", reason="the compiled cost volume needs numba")

from kyn_models.artifact import Artifact
from kyn_models.export import export
from kyn_models.models.dymultidepth import DyMultiDepthConfig
from kyn_models.models.seeded import seeded_frames, write_seeded_frames
from kyn_models.runtimes.frame_queries import FramesInput
from kyn_models.runtimes.frames import choose_frames

pytestmark = pytest.mark.huge
BACKBONES: dict[str, Any] = {"resnet18": "resnet18", "efficientnetb5": "efficientnet_b5"}


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Artifact]:
    model = seeded_frames(DyMultiDepthConfig(encoder=BACKBONES[request.param]))
    path = tmp_path_factory.mktemp("golden") / request.param
    write_seeded_frames(path, model)
    return request.param, export(path)[0]


def recorded(folder: Path, name: str) -> tuple[FramesInput, dict[str, np.ndarray]]:
    with np.load(folder / "dymultidepth" / f"case0_{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    # In float32 as the authors do: 80 m from the map's origin that moves pixels.
    poses = torch.linalg.inv(torch.from_numpy(arrays["poses"])) @ torch.from_numpy(arrays["keyframe_pose"])
    k = arrays["intrinsics"][:3, :3].astype(np.float32)
    np.testing.assert_array_equal(arrays["frame_intrinsics"][:, :3, :3], np.broadcast_to(k, (2, 3, 3)))
    return FramesInput(arrays["keyframe"], arrays["frames"], k, poses.numpy()), arrays


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_authors_inverse_depths(runtime: str, backbone: tuple[str, Artifact], golden: Path) -> None:
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    name, artifact = backbone
    frames, expected = recorded(golden, name)
    answer = choose_frames(runtime, artifact).depth(frames, frozenset({"fused", "mono"}))
    assert answer.fused_m is not None and answer.mono_m is not None
    for found, key in ((answer.fused_m, "inverse_depth"), (answer.mono_m, "inverse_depth_mono")):
        error = np.abs(1 / found[::2, ::2] - expected[key])
        print(f"{name} {runtime} {key}: largest {error.max():.1e}, 99.9 % {np.quantile(error, 0.999):.1e}")
        assert error.max() <= 5e-3 and (error > 1e-4).mean() <= (0.003 if key == "inverse_depth" else 0.0)
