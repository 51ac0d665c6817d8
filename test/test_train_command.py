"""``kyn train`` from a file to an artifact that predicts, and what it says about a file that cannot be right."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

for library in ("torch", "safetensors", "onnx", "onnxscript", "tensorboard", "tqdm"):
    pytest.importorskip(library, reason="training needs the train extra")

import torch
from artifacts import TINY, write_seeded_artifact
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_view_synthesis import Wall
from tiny_drive import DRIVE, FOCAL, write_drive
from training_job import job_config

from kyn_models import config as configuration
from kyn_models.artifact import ENCODER, Artifact
from kyn_models.cli import main
from kyn_models.field_training import condition
from kyn_models.loop import LAST, LoopConfig, part_of
from kyn_models.models.bts import Bts
from kyn_models.models.loading import load_model
from kyn_models.train import Trainer
from kyn_models.view_synthesis import ViewLossConfig, frames_batch, view_loss


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive"), cameras=("00", "01"))


def recipe_file(path: Path, drive: Path, **changes: dict | str) -> Path:
    """The job's configuration as a file, with changes per section."""
    content = configuration.to_mapping(job_config(drive))
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_file_becomes_an_artifact_also_after_a_pause(drive: Path, borrowed_engines, tmp_path: Path, capsys) -> None:
    loop = {"steps": 30, "validate_every": 15}
    recipe = recipe_file(tmp_path / "recipe.yaml", drive, loop=loop, data={"cache": True})
    out = tmp_path / "out"
    assert main(["train", str(recipe), str(out), "--minutes", "0"]) == 3
    assert "not finished: the same command goes on from step 1" in capsys.readouterr().out
    assert main(["train", str(recipe), str(out)]) == 0
    said = capsys.readouterr().out
    assert "going on from step 1" in said and "best model: " in said
    curves = EventAccumulator(str(out / "curves")).Reload()
    assert {"loss/colour", "loss/smooth", "validation/abs_rel", "rate"} <= set(curves.Tags()["scalars"])
    saved = torch.load(out / LAST, weights_only=True)
    assert saved["step"] == 30 and all(torch.isfinite(value).all() for value in saved["model"].values())
    artifact = Artifact.load(out / "artifact")
    assert artifact.manifest.provenance["recipe"] == "recipe.yaml" and ENCODER in artifact.manifest.files
    camera = artifact.manifest.camera
    assert (camera.source.fx, camera.width, camera.height, camera.height_m) == (FOCAL, 96, 64, 1.58)
    assert camera.pitch_deg == pytest.approx(0, abs=0.01)
    field = condition(load_model(artifact), np.zeros((3, 64, 96), np.float32), camera.source.normalised())
    assert torch.isfinite(field(torch.tensor([[[0.0, 0.0, 10.0]]]))).all()


def test_a_folder_of_other_files_is_refused(drive: Path, tmp_path: Path, capsys) -> None:
    recipe = recipe_file(tmp_path / "recipe.yaml", drive)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"photo")
    for out, words in ((photos, "such as a.jpg"), (photos / "a.jpg", "is a file")):
        assert main(["train", str(recipe), str(out)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and [path.name for path in photos.iterdir()] == ["a.jpg"]
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "log.txt").touch()
    own = recipe_file(begun / "recipe.yaml", drive, loop={"steps": 30})
    assert main(["train", str(own), str(begun), "--minutes", "0"]) == 3
    (begun / "log.txt").write_text("a line")
    assert main(["train", str(own), str(begun), "--minutes", "0"]) == 3
    assert "going on from step 1" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_the_running_step_saved(number, drive: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    asked(monkeypatch, {1: 1}, number)
    before = signal.getsignal(number)
    recipe = recipe_file(tmp_path / "recipe.yaml", drive, loop={"steps": 30, "checkpoint_minutes": 60})
    assert main(["train", str(recipe), str(tmp_path / "out")]) == 3
    assert "not finished: the same command goes on from step 3" in capsys.readouterr().out
    assert torch.load(tmp_path / "out" / LAST, weights_only=True)["step"] == 3
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once(drive: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    recipe = recipe_file(tmp_path / "recipe.yaml", drive, loop={"steps": 30, "checkpoint_minutes": 60})
    assert main(["train", str(recipe), str(tmp_path / "out"), "--minutes", "0"]) == 3
    asked(monkeypatch, {4: 2}, signal.SIGINT)
    assert main(["train", str(recipe), str(tmp_path / "out")]) == 130
    assert f"stopped: the same command goes on from {tmp_path / 'out' / LAST}" in capsys.readouterr().out
    assert torch.load(tmp_path / "out" / LAST, weights_only=True)["step"] == 1


def asked(monkeypatch: pytest.MonkeyPatch, times: dict[int, int], number: signal.Signals) -> None:
    """The training receives a signal so many times in a step."""
    step = Trainer.step

    def asked_on_the_way(self, parts):
        for _ in range(times.get(self.state.step, 0)):
            os.kill(os.getpid(), number)
        return step(self, parts)

    monkeypatch.setattr(Trainer, "step", asked_on_the_way)


def test_a_signal_before_the_first_step_is_a_sentence(drive: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Trainer, "resume", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    recipe = recipe_file(tmp_path / "recipe.yaml", drive)
    assert main(["train", str(recipe), str(tmp_path / "out")]) == 130
    assert "stopped: the same command begins with the first step" in capsys.readouterr().out


def test_other_settings_than_the_checkpoints_are_said_before_anything_is_stored(
    drive: Path, tmp_path: Path, capsys
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    assert main(["train", str(recipe_file(recipe, drive)), str(out), "--minutes", "0"]) == 3
    recipe_file(recipe, drive, data={"cache": True})
    assert main(["train", str(recipe), str(out)]) == 2
    assert "was written with other settings (data differ)" in capsys.readouterr().err
    assert not (out / "streets").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"root": "no_folder"}}, "no_folder: there is no such folder, expected kitti360 data"),
        ({"data": {"split": "no_file"}}, "no_file: there is no such file, expected a split file"),
        ({"data": {"colour": 1}}, "unknown key data.colour"),
        ({"data": {"size": [64, 100]}}, "data.size: got [64, 100], expected a height and a width"),
        ({"held_out": {"size": [64, 128]}}, "held_out.size: got [64, 128], expected that of data"),
        ({"model": {"depth": 3}}, "unknown key depth, expected one of encoder"),
        ({"family": "nerf"}, "family: got 'nerf', expected one of"),
        ({"view_loss": {"sample_mode": "kitti360-mono"}}, "sample_mode kitti360-mono: got items with 4 views"),
        ({"loop": {"accumulate": 3}}, "images of a step: got 4 for 3 parts"),
        ({"loop": {"schedule": "linear"}}, "loop.schedule: got 'linear', expected one of 'cosine', 'step'"),
        ({"model": {"encoder": "resnet19"}}, "model.encoder: got resnet19, expected one of resnet18"),
        ({"start_from": "no_artifact"}, "no_artifact: no such folder, expected a model artifact"),
    ],
)
def test_what_cannot_be_right_is_one_sentence(drive: Path, tmp_path: Path, capsys, changes, said) -> None:
    changes = {**changes, "data": {"cache": True, **changes.get("data", {})}}
    recipe = recipe_file(tmp_path / "recipe.yaml", drive, **changes)
    assert main(["train", str(recipe), str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kyn train: ")]
    assert len(error) == 1 and said in error[0]
    assert not (tmp_path / "out" / "streets").exists(), "something was rendered before"


def test_an_image_that_cannot_be_read_stops_by_name(tmp_path: Path, capsys) -> None:
    drive = write_drive(tmp_path / "drive", cameras=("00", "01"))
    for path in (drive / "data_2d_raw" / DRIVE / "image_01" / "data_rect").glob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    recipe = recipe_file(tmp_path / "recipe.yaml", drive)
    assert main(["train", str(recipe), str(tmp_path / "out")]) == 2
    assert "image_01/data_rect/000000000" in capsys.readouterr().err


def test_the_loss_falls_and_gradients_are_finite(tmp_path: Path) -> None:
    """A painted wall, learned from its images and poses alone."""
    config = ViewLossConfig(images=2, rays=192, samples=24, sample_mode="mono", jitter=False)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    trainer = Trainer(
        Bts(TINY),
        lambda model, batch, step: view_loss(model, batch, config),
        LoopConfig(learning_rate=1e-3, norms="kept", encoder_rate=1.0, warmup=5),
        lambda step, part, parts: frames_batch(Wall(), config, 0, step, part_of(2, part, parts)),
        lambda model: (0.0, {}),
        tmp_path,
        {},
    )
    losses = []
    for step in range(24):
        losses.append(trainer.step(trainer._parts(step))["colour"])
        assert all(torch.isfinite(p.grad).all() for p in trainer.model.parameters() if p.grad is not None)
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_training_goes_on_from_an_artifact(drive: Path, tmp_path: Path) -> None:
    from kyn_models.recipe import TrainConfig, make_task, make_trainer

    artifact = write_seeded_artifact(tmp_path / "artifact")
    mapping = {**configuration.to_mapping(job_config(drive)), "start_from": str(artifact.path)}
    config = configuration.from_mapping(TrainConfig, mapping, "recipe")
    trainer = make_trainer(config, make_task(config, tmp_path), tmp_path)
    start = load_model(artifact).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in trainer.model.state_dict().items())
