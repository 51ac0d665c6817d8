"""Official checkpoints of Dynamic Multi-frame Depth, in the form in which the authors' trainer saves them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints need the train extra")

from artifacts import seed_by_name, seeded_bts
from models.test_dymultidepth import TINY, question

from kyn_models.artifact import WEIGHTS, Artifact, sha256
from kyn_models.cli import main
from kyn_models.models import dymultidepth_official
from kyn_models.models.dymultidepth import DyMultiDepth, DyMultiDepthConfig
from kyn_models.models.loading import load_model, make_config

SMALL = replace(TINY, z_near=1 / 0.33, z_far=400.0)


class ConfigParser:
    """Stands for the authors' class of that name: it comes with the weights, with state and with paths."""

    def __init__(self) -> None:
        self._save_dir = Path("saved_model") / "00"
        self.log_levels = OrderedDict({0: "warning"})

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("a class of the file was brought to life")


def state(config: DyMultiDepthConfig = SMALL) -> dict[str, torch.Tensor]:
    model = DyMultiDepth(config)
    seed_by_name(model)
    return dict(model.state_dict())


def save(path: Path, weights: dict[str, Any], parallel: bool = False, legacy: bool = False) -> Path:
    """A file with all that the authors' trainer writes; several GPUs put a word before every name."""
    named = OrderedDict((("module." if parallel else "") + name, value) for name, value in weights.items())
    content = {
        "arch": "DataParallel" if parallel else "DyMultiDepthModel",
        "epoch": 80,
        "state_dict": named,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
        "monitor_best": np.float64(0.043),
        "config": ConfigParser(),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def call(checkpoint: Path, out: Path, *options: str, family: str = "dymultidepth") -> int:
    return main(["import", family, str(checkpoint), str(out), *options])


@pytest.mark.parametrize("parallel, legacy", [(False, False), (True, True)], ids=["one GPU", "several GPUs, old file"])
def test_the_artifact_is_the_model(tmp_path: Path, capsys: Any, parallel: bool, legacy: bool) -> None:
    weights = state()
    file = save(tmp_path / "mr_kitti.pth", weights, parallel, legacy)
    assert call(file, tmp_path / "out", "--no-export") == 0
    out = capsys.readouterr().out
    for name in ("arch", "epoch", "optimizer", "monitor_best", "config"):
        assert f"ignored, outside the model: {name}\n" in out
    assert f"{len(weights)} weights, all of the model's (resnet18)" in out
    assert f"torch runs it; for the other runtimes: kyn export {tmp_path / 'out'}\n" in out
    artifact = Artifact.load(tmp_path / "out")
    manifest = artifact.manifest
    assert manifest.family == "dymultidepth" and set(manifest.files) == {WEIGHTS}
    assert manifest.input == "RGB uint8, image / 255 - 0.5"
    assert (manifest.z_near, manifest.z_far) == (1 / 0.33, 400.0)
    assert (manifest.camera.width, manifest.camera.height, manifest.camera.height_m) == (512, 256, 1.65)
    assert manifest.licences.weights.endswith("MIT") and manifest.licences.data.startswith("KITTI, CC BY-NC-SA")
    assert manifest.provenance == {"imported from": "mr_kitti.pth", "sha256": sha256(file)}
    model = load_model(artifact)
    assert isinstance(model, DyMultiDepth) and model.config == SMALL and not model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    with torch.inference_mode():
        assert torch.isfinite(model(**question()).fused).all()


def test_the_canonical_camera_is_that_of_the_paper(golden: Path) -> None:
    """Cropped and scaled as the authors do, c' = c s, it is the camera of the recorded frames."""
    camera = dymultidepth_official.CAMERA
    with np.load(golden / "dymultidepth" / "case0_resnet18.npz") as case:
        expected = case["intrinsics"][:3, :3]
    scale = np.diag([camera.width / camera.source.width, camera.height / camera.source.height, 1.0])
    np.testing.assert_allclose(scale @ camera.source.matrix, expected, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        DyMultiDepthConfig(),
        replace(SMALL, encoder="efficientnet_b5"),
        replace(SMALL, fusion="mono_guides_multi", attention_stride=8),
        replace(SMALL, fusion="multi_guides_mono", depth_steps=16, fused_channels=12),
        replace(SMALL, channels_enc=(48, 64, 128, 256, 512), channels_dec=(512, 256, 128, 64, 32, 24)),
        replace(SMALL, image_beside_cues=False),
        replace(SMALL, fusion="mono_guides_multi", image_beside_cues=False),
    ],
    ids=["published", "efficientnet", "mono guides", "multi guides", "large", "cues alone", "one cue alone"],
)
def test_shapes_tell_the_configuration(config: DyMultiDepthConfig) -> None:
    with torch.device("meta"):
        weights = DyMultiDepth(config).state_dict()
    assert make_config("dymultidepth", dymultidepth_official.config_of(weights), "shapes") == config


def test_what_is_wrong_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    def failure(weights: dict[str, Any], *options: str, family: str = "dymultidepth") -> str:
        file = save(tmp_path / "a.pth", weights)
        assert call(file, tmp_path / "out", *options, family=family) == 2
        assert not (tmp_path / "out").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return str(error)

    right = state()
    gamma, first = "fusion_module.gamma", "fusion_module.mono_expand.0.weight"
    without = {name: value for name, value in right.items() if name != first}
    assert f"missing: {first}" in failure(without, "--no-export")
    assert f"extra: more, misshapen: {gamma} [2] instead of [1]".replace(", mis", "; mis") in failure(
        {**right, "more": torch.zeros(1), gamma: torch.zeros(2)}, "--no-export"
    )
    assert "got no weights under 'state_dict', expected some" in failure({})
    assert "--lseg: got x, expected it for kyn only, not for dymultidepth" in failure(right, "--lseg", "x")
    assert "is a checkpoint of dymultidepth, expected one of bts; use kyn import dymultidepth" in failure(
        right, family="bts"
    )


def test_a_checkpoint_of_another_system_is_named(tmp_path: Path, capsys: Any) -> None:
    weights = {f"renderer.net.{name}": value for name, value in seeded_bts().state_dict().items()}
    torch.save({"model": weights}, tmp_path / "a.pt")
    assert call(tmp_path / "a.pt", tmp_path / "out") == 2
    assert "is a checkpoint of bts, expected one of dymultidepth; use kyn import bts" in capsys.readouterr().err
