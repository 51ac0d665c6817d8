"""Every configuration of config/train can be loaded, and says what the papers' configurations say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_realestate import SHARES, write_prepared

torch = pytest.importorskip("torch", reason="training needs torch")

from kyn_models import config as configuration
from kyn_models.models.loading import make_config, make_model
from kyn_models.recipe import TrainConfig, freeze, make_task

FOLDER = Path(__file__).parents[1] / "config" / "train"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
KITTI = {"hard_cap": True, "samples": 64, "steps": [0, 1], "rate": 1e-4, "decay_every": 120_000, "size": (192, 640)}
KITTI360 = {**KITTI, "sample_mode": "kitti360-mono", "views": 8}
PUBLISHED: dict[str, dict[str, object]] = {
    "bts_kitti360": {**KITTI360, "images": 16, "rays": 4096},
    "bts_kitti_raw": {**KITTI, "sample_mode": "default", "views": 4, "images": 16, "rays": 2048},
    "bts_realestate10k": {
        **{"sample_mode": "default", "hard_cap": False, "samples": 48, "views": 3, "steps": [0, -1, 1]},
        **{"images": 24, "rays": 1024, "rate": 1e-5, "decay_every": 100_000, "size": (256, 384)},
    },
    "kyn_kitti360": {**KITTI360, "images": 8, "rays": 4096},
}
"""By the authors' exp_*, train_kyn and data files."""
MODELS: dict[str, dict[str, object]] = {
    "bts_kitti360": {"d_out": 64, "hidden": 64, "blocks": 0, "z_near": 3, "z_far": 80, "code_depth": "z"},
    "bts_kitti_raw": {"d_out": 64, "hidden": 64, "blocks": 0, "z_near": 3, "z_far": 80, "code_depth": "z"},
    "bts_realestate10k": {"d_out": 32, "hidden": 32, "blocks": 1, "z_near": 1, "z_far": 100, "code_depth": "distance"},
    "kyn_kitti360": {"d_out": 64, "hidden": 128, "heads": 4, "head_channels": 32, "z_near": 3, "z_far": 80},
}


def load(name: str) -> TrainConfig:
    return configuration.load_yaml(TrainConfig, FOLDER / name)


def test_every_family_has_a_file_for_every_data_set() -> None:
    named = {
        f"{family}_{data}.yaml" for family in ("bts", "kyn") for data in ("kitti360", "kitti_raw", "realestate10k")
    }
    assert named | {"bts_streets_lite0.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_loaded(name: str) -> None:
    config = load(name)
    assert config.family == name.split("_")[0]
    if config.data is not None and config.data.layout != "streets":
        assert config.data.layout == name.removesuffix(".yaml").split("_", 1)[1]
        assert config.held_out.depth == (config.data.layout != "realestate10k")
        assert config.loop.warmup == config.loop.weight_decay == config.loop.average == config.loop.clip == 0


@pytest.mark.parametrize("name", [name for name in FILES if "\nfrozen:" in (FOLDER / name).read_text()])
def test_what_a_file_freezes_is_there(name: str) -> None:
    config = load(name)
    with torch.device("meta"):
        model = make_model(config.family, config.model, name)
    freeze(model, config.frozen)
    learning = [parameter.requires_grad for parameter in model.parameters()]
    assert config.frozen and any(learning) and not all(learning)


UNREAD = {
    "dymultidepth_streets.yaml": {
        "streets": {"pairs": 7},
        "loss": {"images": 3},
        "view_loss": {"images": 3},
        "validation": {"pairs": 3},
        "lseg": "demo_e200.ckpt",
    },
    "bts_kitti360.yaml": {
        "streets": {"pairs": 7},
        "loss": {"images": 3},
        "depth_loss": {"images": 3},
        "validation": {"pairs": 3},
        "vocabulary": "bpe.txt",
    },
    "bts_streets_lite0.yaml": {"view_loss": {"images": 3}, "depth_loss": {"images": 3}, "lseg": "demo_e200.ckpt"},
}


@pytest.mark.parametrize(
    ("name", "section", "given"),
    [(name, section, given) for name, sections in UNREAD.items() for section, given in sections.items()],
)
def test_what_nothing_reads_is_refused(name: str, section: str, given: object) -> None:
    mapping = {**yaml.safe_load((FOLDER / name).read_text()), section: given}
    with pytest.raises(
        ValueError, match=f"^{name}: {section}: got settings that nothing reads .*; leave {section} out$"
    ):
        configuration.from_mapping(TrainConfig, mapping, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_values_are_the_published_ones(name: str) -> None:
    config = load(f"{name}.yaml")
    data, loss, loop = config.data, config.view_loss, config.loop
    assert data is not None
    cameras = (4 if data.fisheye else 2) if data.stereo else 1
    assert PUBLISHED[name] == {
        **{"sample_mode": loss.sample_mode, "hard_cap": loss.hard_cap, "samples": loss.samples},
        **{"views": cameras * len(data.steps), "steps": list(data.steps), "images": loss.images, "rays": loss.rays},
        **{"rate": loop.learning_rate, "decay_every": loop.decay_every, "size": data.size},
    }
    model = make_config(config.family, config.model, name)
    assert {key: getattr(model, key) for key in MODELS[name]} == MODELS[name]
    assert (loop.schedule, loop.decay, loop.encoder_rate) == ("step", 0.1, 1.0)
    assert (loss.patch, loss.colour, loss.smoothness, loss.views_rendered) == (8, 2.0, 0.001, 2)
    assert loss.invalid == "weight_guided" and loss.flip and loss.jitter and loss.corners
    assert not data.fisheye or data.fisheye_offset == 10
    # The renderer's 100,000 points are shared by the images of a process.
    assert loss.points_per_call == (12_500 if config.family == "kyn" else 0)


def test_published_lengths() -> None:
    for name, frames, epochs in (("bts_kitti360", 98_008, 25), ("kyn_kitti360", 98_008, 25)):
        config = load(f"{name}.yaml")
        assert config.loop.steps == epochs * (frames // config.view_loss.images)


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
    second = load("bts_streets_mounts.yaml")
    assert second.start_from == "runs/streets-lite0/artifact" and second.model == config.model
    first_seeds = config.streets.first_seed, second.streets.first_seed
    assert abs(first_seeds[0] - first_seeds[1]) > config.streets.pairs, "the second part sees other streets"
    assert second.streets.mount_strength > config.streets.mount_strength


def test_the_streets_are_learnt_from_views_alone() -> None:
    config = load("bts_streets_views.yaml")
    assert config.data is not None and config.data.layout == "streets" and config.held_out is None
    assert config.data.streets.first_seed + config.data.streets.streets < config.validation.first_seed
    assert config.view_loss.sample_mode == "kitti360-mono" and config.start_density > 0


@pytest.mark.parametrize(("encoder", "frozen"), [("resnet18", ("_feature_extractor.",)), ("efficientnet_b5", ())])
def test_values_of_multi_frame_depth_are_the_published_ones(encoder: str, frozen: tuple[str, ...]) -> None:
    config = load(f"dymultidepth_{encoder}.yaml")
    loop, loss, frames, held_out = config.loop, config.depth_loss, config.frames, config.held_out_frames
    assert frames is not None and held_out is not None
    assert frames.odometry.sequences == ("01", "02", "06", "08", "09", "10")
    assert held_out.odometry.sequences == ("00", "04", "05", "07") and held_out.per_sequence == 32
    for data in (frames, held_out):
        assert (data.layout, data.size, data.limit) == ("kitti_odometry", (256, 512), 0)
        assert (data.odometry.offsets, data.odometry.poses, data.odometry.margin) == ((-1, 1), "dvso", 5)
    # Frames of these sequences without the ends, 80 times, in batches of 8.
    epoch = math.ceil(sum(length - 10 for length in (1101, 4661, 1101, 4071, 1591, 1201)) / loss.images)
    assert (loop.steps, loop.decay_every, loss.images) == (80 * epoch, 65 * epoch, 8)
    assert (loop.learning_rate, loop.schedule, loop.decay, loop.encoder_rate) == (1e-4, "step", 0.1, 1.0)
    assert loop.amsgrad and loop.weight_decay == loop.warmup == loop.clip == loop.average == 0
    assert (loss.depth, loss.normals, loss.dropout, loss.farthest_m) == (2 * 0.5 * 4, 1.0, 0.0, 0.0)
    assert loss.flip and loss.jitter and config.imagenet and config.frozen == frozen
    model = make_config(config.family, config.model, encoder)
    assert (model.encoder, model.fusion, model.depth_steps, model.fused_channels) == (encoder, "cross_cue", 32, 32)
    assert (model.channels_enc, model.channels_dec) == ((48, 64, 128, 192, 256), (256, 128, 64, 48, 32, 24))
    assert (model.z_near, model.z_far) == (1 / 0.33, 400.0)


def test_a_file_of_streets_trains_on_others_than_it_validates_on() -> None:
    config = load("dymultidepth_streets.yaml")
    assert config.frames is not None and config.held_out_frames is not None
    seeds = [
        range(data.streets.first_seed, data.streets.first_seed + data.streets.streets)
        for data in (config.frames, config.held_out_frames)
    ]
    assert not set(seeds[0]) & set(seeds[1])
    assert config.frames.size == config.held_out_frames.size
