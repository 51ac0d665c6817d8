"""Know Your Neighbors is trained like Behind the Scenes, around a language model that stays as its file has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("instant_clip_tokenizer", reason="CLIP's vocabulary needs the labels extra")

from test_import_kyn import LABELS, TINY, features, model, write_lseg
from tiny_drive import write_drive
from training_job import LOOP, job_config

from kyn_models import config as configuration
from kyn_models.artifact import Artifact
from kyn_models.loop import BEST
from kyn_models.models.kyn_official import LSEG, TEXT_FEATURES
from kyn_models.models.loading import load_model
from kyn_models.recipe import TrainConfig, make_task, make_trainer, write_best


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("kyn")
    job = job_config(write_drive(folder / "drive", cameras=("00", "01")), replace(LOOP, steps=2, norms="batch"))
    options = configuration.to_mapping(TINY)
    return replace(
        job,
        model=options,
        family="kyn",
        lseg=str(write_lseg(folder / "demo_e200.ckpt")),
        labels=LABELS,
        view_loss=replace(job.view_loss, images=2),
    )


def test_it_starts_from_lseg_which_stays_as_it_is(config: TrainConfig, tmp_path: Path) -> None:
    trainer = make_trainer(config, make_task(config, tmp_path), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert torch.equal(before[f"{LSEG}scratch.head1.weight"], model().state_dict()[f"{LSEG}scratch.head1.weight"])
    assert torch.allclose(before[TEXT_FEATURES], features(), atol=1e-6)
    assert trainer.run()
    after = trainer.model.state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name for name in after if name.startswith((LSEG, TEXT_FEATURES, "code_xyz"))} <= still
    changed = {name.split(".")[0] + "." + name.split(".")[1] for name in after if name not in still}
    assert {"encoder.vision_encoder", "encoder.fuser", "mlp_coarse.lin_out"} <= changed
    saved = torch.load(tmp_path / BEST, weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved["averaged"].values())


def test_the_artifact_knows_its_labels(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(config, tmp_path)
    trainer = make_trainer(config, task, tmp_path)
    trainer.save(BEST)
    monkeypatch.setattr("kyn_models.recipe.export", lambda path: (path, []))
    artifact = Artifact.load(write_best(config, task, tmp_path, "recipe.yaml"))
    assert artifact.manifest.family == "kyn" and artifact.manifest.labels == LABELS
    started = replace(config, lseg="", start_from=str(artifact.path))
    again = make_trainer(started, task, tmp_path / "again").model.state_dict()
    with pytest.raises(ValueError, match="expected .* in this order as start_from"):
        make_trainer(replace(started, labels=LABELS[::-1]), task, tmp_path / "other")
    stored = load_model(artifact).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in again.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ("road",)}, "labels: got 1, expected 3 as model.label_count says"),
        ({"lseg": ""}, "lseg: got none, expected the authors' demo_e200.ckpt"),
        ({"family": "bts"}, "unknown key"),
    ],
)
def test_what_does_not_fit_is_named(config: TrainConfig, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(config, **changes)


def test_another_file_than_lseg_is_named(config: TrainConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"net.scratch.head1.weight": torch.ones(2)}}, other)
    wrong = replace(config, lseg=str(other))
    with pytest.raises(ValueError, match=r"other\.ckpt: .*missing: "):
        make_trainer(wrong, make_task(config, tmp_path), tmp_path)
