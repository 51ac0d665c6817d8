"""Every configuration of config/train can be loaded, and says what the papers' configurations say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_realestate import SHARES, write_prepared

pytest.importorskip("torch", reason="training needs torch")

from kyn_models import config as configuration
from kyn_models.models import FAMILIES
from kyn_models.models.loading import make_config
from kyn_models.recipe import TrainConfig, make_task

FOLDER = Path(__file__).parents[1] / "config" / "train"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
PUBLISHED = {
    "bts_kitti360": (16, 4096, 64, 1e-4, [1e-4, 1e-5], (3, 80), (192, 640)),
    "bts_kitti_raw": (16, 2048, 64, 1e-4, [1e-4, 1e-5], (3, 80), (192, 640)),
    "bts_realestate10k": (24, 1024, 48, 1e-5, [1e-5, 1e-8], (1, 100), (256, 384)),
    "kyn_kitti360": (8, 4096, 64, 1e-4, [1e-4, 1e-6], (3, 80), (192, 640)),
}
"""Images, rays, samples, rate, rates at the first and last step, range, size: by the authors' files."""


def load(name: str) -> TrainConfig:
    return configuration.load_yaml(TrainConfig, FOLDER / name)


def test_every_family_has_a_file_for_every_data_set() -> None:
    named = {
        f"{family}_{data}.yaml" for family in ("bts", "kyn") for data in ("kitti360", "kitti_raw", "realestate10k")
    }
    assert named | {"bts_streets_lite0.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name.split("_")[0] in FAMILIES])
def test_a_file_can_be_loaded(name: str) -> None:
    config = load(name)
    assert config.family == name.split("_")[0]
    if config.data is not None and config.data.layout != "streets":
        assert config.data.layout == name.removesuffix(".yaml").split("_", 1)[1]
        assert config.held_out.depth == (config.data.layout != "realestate10k")
        assert config.loop.warmup == config.loop.weight_decay == config.loop.average == config.loop.clip == 0


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.split("_")[0] in FAMILIES])
def test_values_are_the_published_ones(name: str) -> None:
    images, rays, samples, rate, rates, reach, size = PUBLISHED[name]
    config = load(f"{name}.yaml")
    model = make_config(config.family, config.model, name)
    assert (config.view_loss.images, config.view_loss.rays, config.view_loss.samples) == (images, rays, samples)
    assert config.loop.learning_rate == rate and config.data.size == size
    assert [config.loop.rate(step) for step in (0, config.loop.steps - 1)] == pytest.approx(rates)
    assert (model.z_near, model.z_far) == reach
    assert config.view_loss.patch == 8 and config.view_loss.smoothness == 0.001
    assert config.view_loss.invalid == "weight_guided" and config.view_loss.flip and config.view_loss.jitter


def test_realestate10k_gives_batches(tmp_path: Path) -> None:
    config = load("bts_realestate10k.yaml")
    for part in ("train", "test"):
        write_prepared(tmp_path / part, "0a1b", count=4)
    split = tmp_path / "val_files.txt"
    split.write_text("0a1b 2\n")
    task = make_task(
        replace(
            config,
            data=replace(config.data, root=str(tmp_path / "train")),
            held_out=replace(config.held_out, root=str(tmp_path / "test"), split=str(split)),
            view_loss=replace(config.view_loss, images=2),
        ),
        tmp_path,
    )
    batch = task.batches(0, 0, 1)
    assert batch["images"].shape == (2, 3, 3, 256, 384) and batch["truth"].shape == (2, 1024, 3)
    assert batch["k_norm"][0, 2, 0, 0] == pytest.approx(2 * SHARES[0])
    assert task.camera.source.normalised()[1, 2] == pytest.approx(2 * SHARES[3] - 1)
    # A frame and its dilation, of 29 for each frame.
    assert task.item_name(28) == "0a1b_0000000000_00" and task.item_name(29) == "0a1b_0000000001_00"


def test_the_shipped_recipe_learns_geometry_from_streets() -> None:
    config = load("bts_streets_lite0.yaml")
    assert config.data is None and config.streets.pairs == 1100 and config.loop.schedule == "cosine"
    assert len(config.frozen) == 5 and config.loss.freeze_norms
