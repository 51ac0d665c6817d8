"""What a trained artifact says about licences and about what it started from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="configurations of training need torch")

from artifacts import TINY_KYN, write_seeded_artifact
from training_job import job_config

from kyn_models.artifact import Artifact
from kyn_models.config import to_mapping
from kyn_models.data.sources import DataConfig
from kyn_models.origin import licences_of, source_of, start_of
from kyn_models.recipe import TrainConfig

JOB = job_config(Path("data"))


@pytest.fixture
def start(tmp_path: Path) -> Artifact:
    return write_seeded_artifact(tmp_path / "teacher")


def said(config: TrainConfig, encoder: str = "efficientnet_lite0") -> tuple[str, str]:
    licences = licences_of(config, encoder, source_of(config.data.layout))
    assert licences.code == "Apache-2.0"
    return licences.weights, licences.data


def test_what_our_streets_teach_is_apache() -> None:
    config = replace(JOB, data=DataConfig("streets"), held_out=None, imagenet=True)
    streets = "synthetic streets of this package, from images and poses alone"
    assert said(config) == (
        "Apache-2.0",
        f"{streets}; encoder started from ImageNet weights (Apache-2.0)",
    )
    assert said(config, "resnet50")[1].endswith("(BSD-3-Clause, torchvision)")
    assert start_of(config) == {}


def test_what_others_data_teach_has_their_licence() -> None:
    assert said(JOB) == ("that of the data", "frames in the layout kitti360, from images and poses alone")
    labels = tuple(map(str, range(TINY_KYN.label_count)))
    kyn = replace(JOB, family="kyn", model=to_mapping(TINY_KYN), labels=labels, lseg="demo_e200.ckpt")
    weights, data = said(kyn)
    assert "LSeg and CLIP's text features inside" in weights and "LSeg and CLIP inside" in data


def test_a_start_is_named_and_its_licence_stays(start: Artifact) -> None:
    config = replace(JOB, start_from=str(start.path), imagenet=True)
    weights, data = said(config)
    given = start.manifest.licences
    assert weights == f"that of the data; of {start.name}, which it started from: {given.weights}"
    assert f"started from {start.name} (data: {given.data})" in data and "ImageNet" not in data
    assert start_of(config) == {"started from": start.name, "hash of the start": start.hash}
