"""Every evaluation of a model whose points attend to each other: which points are one set; the commands run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_drive as tiny
import tiny_raw

for library in ("torch", "safetensors", "numba"):
    pytest.importorskip(library, reason="making an artifact needs the train extra")

from artifacts import seeded_kyn, write_seeded_artifact

from kyn_models import cli, novel_view
from kyn_models.artifact import Artifact, write_artifact
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.kitti_raw_split import KittiRawSplit
from kyn_models.models import POINTS_PER_CALL
from kyn_models.predictor import Predictor


@pytest.fixture(scope="module")
def tiny_kyn(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_seeded_artifact(tmp_path_factory.mktemp("kyn") / "model", seeded_kyn(), width=96, height=64)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """(points, points per call) of every call of ``Predictor.density``."""
    calls: list[tuple[int, int | None]] = []
    density = Predictor.density

    def recorded(self: Predictor, observation: Any, points: np.ndarray, points_per_call: int | None = None) -> Any:
        calls.append((len(points), points_per_call))
        return density(self, observation, points, points_per_call)

    monkeypatch.setattr(Predictor, "density", recorded)
    return calls


def test_occupancy_splits_its_points_as_published_and_depth_runs(
    tiny_kyn: Artifact, asked: list[tuple[int, int | None]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tiny.write_drive(tmp_path / "kitti360", frames=range(5, 10))
    common = ["--data", str(root), "--model", str(tiny_kyn.path), "--runtime", "torch"]
    assert cli.main(["eval", "occupancy", *common, "--scans", "3"]) == 0
    assert "(kyn) on" in capsys.readouterr().out
    assert asked and {per_call for _, per_call in asked} == {POINTS_PER_CALL}
    assert cli.main(["eval", "depth", *common, "--every", "3"]) == 0
    assert "(kyn) on" in capsys.readouterr().out


def test_points_of_a_view_are_split_as_in_the_authors_renderer(
    tiny_kyn: Artifact, asked: list[tuple[int, int | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.write_drive(tmp_path / "kitti360", frames=range(5, 7), cameras=("00", "01"))
    monkeypatch.setattr(novel_view, "POINTS_AT_ONCE", 1000)
    arguments = ["--data", str(root), "--model", str(tiny_kyn.path), "--size", "48x24", "--samples", "8"]
    arguments += ["--runtime", "torch"]
    assert cli.main(["eval", "nvs", *arguments]) == 0
    assert asked == [(48 * 24 * 8, POINTS_PER_CALL)] * 2


def test_published_rays_are_split_as_in_the_authors_renderer(tmp_path: Path, capsys) -> None:
    import torch

    from kyn_models.geometry import View
    from kyn_models.models.loading import load_model
    from kyn_models.published_rays import PublishedRays
    from kyn_models.render import z_samples

    root = tiny_raw.write_raw(tmp_path / "raw")
    split = tmp_path / "split.txt"
    split.write_text(f"{tiny_raw.DRIVE} 1 l\n")
    written = write_seeded_artifact(tmp_path / "model", seeded_kyn(), width=96, height=64)
    camera = replace(written.manifest.camera, source=KittiRawFolder(root).intrinsics(tiny_raw.DRIVE, "02"))
    artifact = write_artifact(written.path, replace(written.manifest, camera=camera), {})
    sample = KittiRawSplit(root, split)[0]
    depth, _ = PublishedRays(artifact).depth(sample)

    key = sample.observation.key
    k_norm = key.intrinsics.normalised()
    image = cv2.resize(key.image.astype(np.float32) / 127.5 - 1, (96, 64)).transpose(2, 0, 1)
    u, v = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 64))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(k_norm).T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    with torch.inference_mode():
        tensors = (torch.from_numpy(array).float()[None] for array in (image, k_norm, np.eye(4)))
        field = load_model(artifact).condition(View(*tensors))
        distances = z_samples(field.z_near, field.z_far).numpy().astype(np.float64)
        points = torch.from_numpy(distances[:, None] * rays[:, None]).float().view(1, -1, 3)

        def rendered(points_per_call: int | None) -> np.ndarray:
            sigma = field.density(points, points_per_call).sigma.view(-1, 64).numpy()
            alpha = 1 - np.exp(-np.diff(distances, append=1e10) * sigma)
            alpha[:, -1] = 1
            weights = alpha * np.cumprod(np.hstack([np.ones((len(alpha), 1)), 1 - alpha[:, :-1]]), axis=1)
            return ((weights * distances).sum(axis=1) * rays[:, 2]).reshape(64, 96)

        np.testing.assert_allclose(depth, rendered(100_000), rtol=1e-3)
        assert np.abs(depth / rendered(None) - 1).max() > 2e-3
    arguments = ["--layout", "kitti_raw", "--data", str(root), "--model", str(artifact.path), "--split", str(split)]
    assert cli.main(["eval", "depth", *arguments]) == 0
    assert "image resized to 96x64, rays as published" in capsys.readouterr().out
