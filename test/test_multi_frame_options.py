"""What multi-frame training can leave out, mask, freeze or add: dropout, moving things, stages, stereo, matching."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch")

from multi_frame_job import CONFIG, LOOP

from kyn_models.artifact import WEIGHTS, Artifact, write_artifact
from kyn_models.config import from_mapping
from kyn_models.data.depth_items import LiveItems, PosedDataConfig, PosedFrames
from kyn_models.data.kitti_odometry_frames import OdometryFramesOptions
from kyn_models.models.loading import load_model, make_model
from kyn_models.multi_frame_training import DepthLossConfig, compiled_cost, depth_batch, dropped, multi_frame_loss
from kyn_models.networks.plane_sweep import best_depth, sweep_depths
from kyn_models.origin import branches_of
from kyn_models.recipe import TrainConfig, make_task, make_trainer, write_best
from kyn_models.runtimes.frames import choose_frames

DEPTHS = sweep_depths(1 / 0.33, 400.0, 32, torch.zeros(1))
IMAGE, SEEDS = torch.zeros(3, 3, 64, 96), torch.tensor([1, 2, 3])
STILL = torch.zeros(3, 1, 64, 96, dtype=torch.bool)


@pytest.fixture(scope="module")
def items() -> LiveItems:
    return LiveItems(PosedFrames(CONFIG.frames))


def test_dropout_takes_its_share_of_squares_and_is_the_items_own() -> None:
    config = DepthLossConfig(dropout=0.25)
    kept = dropped(SEEDS, IMAGE, config, STILL)
    assert kept is not None and kept.shape == (3, 1, 64, 96)
    assert float(kept.mean()) == pytest.approx(0.75, abs=0.06)
    squares = kept.view(3, 8, 8, 12, 8)
    assert torch.equal(squares.amax(dim=(2, 4)), squares.amin(dim=(2, 4)))
    assert torch.equal(dropped(SEEDS[1:2], IMAGE[1:2], config, STILL[1:2]), kept[1:2])
    assert dropped(SEEDS, IMAGE, DepthLossConfig(), STILL) is None


def test_dropout_takes_its_share_of_whole_items() -> None:
    seeds, many = torch.arange(400), torch.zeros(400, 3, 16, 16)
    kept = dropped(seeds, many, DepthLossConfig(dropout=0.3, drop="items"), torch.zeros(400, 1, 16, 16).bool())
    assert kept is not None and kept.shape == (400, 1, 16, 16)
    whole = kept.flatten(1).mean(dim=1)
    assert set(whole.tolist()) == {0.0, 1.0} and 0.62 < float(whole.mean()) < 0.78


def test_masks_take_what_moves_and_nothing_else() -> None:
    moving = STILL.clone()
    moving[:2, :, 10:20, 30:50] = True
    always = dropped(SEEDS, IMAGE, DepthLossConfig(dropout=1.0, drop="moving"), moving)
    assert torch.equal(always, (~moving).float())
    many = torch.ones(400, 1, 8, 8, dtype=torch.bool)
    some = dropped(torch.arange(400), torch.zeros(400, 3, 8, 8), DepthLossConfig(dropout=0.3, drop="moving"), many)
    assert some is not None and 0.62 < float(some.mean()) < 0.78 and set(some.flatten(1).mean(dim=1).tolist()) == {0, 1}


def test_masked_movers_do_not_reach_the_loss_through_their_costs(items: LiveItems) -> None:
    """What the sweep says where things move changes nothing once the masks take it."""
    torch.manual_seed(0)
    model = make_model("dymultidepth", CONFIG.model, "model").eval()
    batch = depth_batch(items, DepthLossConfig(images=2, flip=False), DEPTHS, 1, 0)
    moving = torch.zeros(2, 1, 64, 96, dtype=torch.bool)
    moving[:, :, 24:40, 40:72] = True
    cost = torch.rand(2, 32, 64, 96, generator=torch.Generator().manual_seed(0))
    # Far from the edge of the mask: the fusion looks at neighbours of a pixel too, and its attention is off at first.
    inner = torch.zeros_like(moving)
    inner[:, :, 30:34, 46:66] = True
    other = torch.where(inner, -cost, cost)

    def fused(cost: torch.Tensor, share: float) -> float:
        config = DepthLossConfig(images=2, dropout=share, drop="moving")
        terms = multi_frame_loss(model, {**batch, "moving": moving, "cost": cost}, config)
        return float(terms["fused"].detach())

    assert fused(cost, 1.0) == fused(other, 1.0)
    assert fused(cost, 0.0) != fused(other, 0.0)


def test_batches_say_what_moves_as_the_mirror_shows_it(items: LiveItems) -> None:
    whole = depth_batch(items, DepthLossConfig(images=4), DEPTHS, 1, 3)
    assert whole["moving"].any()
    mirror_images = 0
    for place, index in enumerate(whole["items"].tolist()):
        moving = torch.from_numpy(items[index].moving)
        flipped = not torch.equal(whole["moving"][place, 0], moving)
        mirror_images += flipped
        assert not flipped or torch.equal(whole["moving"][place, 0], moving.flip(1))
    assert mirror_images > 0


def test_stages_teach_one_branch_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the branch of one image, without any cost volume; then, from its artifact, the fused one beside it."""
    monkeypatch.setattr("kyn_models.recipe.export", lambda path: (path, []))
    loop = replace(LOOP, steps=3, validate_every=3)
    first = replace(CONFIG, loop=loop, depth_loss=replace(CONFIG.depth_loss, branches=("mono",), dropout=0.0))
    task = make_task(first, tmp_path)
    batch = task.batches(0, 0, 1)
    assert "cost" not in batch
    trainer = make_trainer(first, task, tmp_path / "first")
    trainer.model.cost_volume = None
    assert set(multi_frame_loss(trainer.model, batch, first.depth_loss)) == {"mono", "mono normals"}
    del trainer.model.cost_volume
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.run()
    learned = {name.split(".")[0] for name, value in trainer.model.named_parameters() if (value != before[name]).any()}
    assert learned == {"_feature_extractor", "mono_module"}
    with torch.no_grad():
        score, numbers = task.validate(trainer.model)
    assert score == numbers["mono"] != numbers["fused"]
    start = write_best(first, task, tmp_path / "first", "first.yaml")
    assert Artifact.load(start).manifest.branches == branches_of(first) == ("mono",)

    frozen = ("mono_module.", "_feature_extractor.")
    loss = replace(CONFIG.depth_loss, branches=("fused",))
    second = replace(CONFIG, loop=loop, depth_loss=loss, start_from=str(start), frozen=frozen)
    assert branches_of(second) == ("fused", "mono") and branches_of(replace(second, start_from="")) == ("fused",)
    unmarked = replace(Artifact.load(start).manifest, branches=())
    before_marks = write_artifact(tmp_path / "unmarked", unmarked, {WEIGHTS: (start / WEIGHTS).read_bytes()})
    assert branches_of(replace(first, start_from=str(before_marks.path))) == ("fused", "mono")
    task = make_task(second, tmp_path)
    trainer = make_trainer(second, task, tmp_path / "second")
    assert set(multi_frame_loss(trainer.model, task.batches(0, 0, 1), loss)) == {"fused", "fused normals"}
    assert trainer.run()
    weights = load_model(Artifact.load(start)).state_dict()
    for name, value in trainer.model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, weights[name]), name
    assert not torch.equal(trainer.model.fusion_module.gamma, weights["fusion_module.gamma"])
    with torch.no_grad():
        score, numbers = task.validate(trainer.model)
    assert score == numbers["fused"]


def test_a_model_with_another_matching_is_for_torch_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {**CONFIG.model, "matching": {"difference": "absolute"}}
    with pytest.raises(ValueError, match=r"depth_loss.sweep: got compiled with Matching.*'absolute'.*expected torch"):
        replace(CONFIG, model=model)
    loop = replace(LOOP, steps=1, validate_every=1)
    loss = replace(CONFIG.depth_loss, sweep="torch")
    config = replace(CONFIG, model=model, depth_loss=loss, loop=loop)
    task = make_task(config, tmp_path / "streets")
    trainer = make_trainer(config, task, tmp_path)
    assert trainer.run()
    artifact = Artifact.load(write_best(config, task, tmp_path, "test.yaml"))
    assert "only torch runs this model (model.matching: got" in capsys.readouterr().out
    assert set(artifact.manifest.files) == {"weights.safetensors"}
    assert load_model(artifact).config.matching.difference == "absolute"
    assert choose_frames("auto", artifact, lambda said: None).name == "torch"


def test_stereo_is_right_where_things_move(items: LiveItems) -> None:
    """Both images of a pair are taken at once: the cost volume alone finds moving things where frames do not."""
    streets = replace(CONFIG.frames.streets, streets=6, width=320, height=96)
    errors = {}
    for name, neighbours, stereo in (("frames", (-1, 1), False), ("stereo", (), True)):
        config = replace(CONFIG.frames, streets=replace(streets, neighbours=neighbours, stereo=stereo))
        found = []
        for item in LiveItems(PosedFrames(config)):
            assert len(item.images) == 1 + len(neighbours) + stereo
            depth = best_depth(compiled_cost(item, DEPTHS)[None], DEPTHS)[0].numpy()
            scored = item.moving & np.isfinite(item.depth_m) & (item.depth_m < 30) & np.isfinite(depth)
            found.append(np.abs(depth - item.depth_m)[scored] / item.depth_m[scored])
        errors[name] = np.median(np.concatenate(found))
    assert errors["stereo"] < 0.15 and errors["stereo"] < 0.5 * errors["frames"], errors


def test_a_stereo_pair_stands_as_far_apart_as_the_cameras() -> None:
    streets = replace(CONFIG.frames.streets, stereo=True)
    sample = PosedFrames(replace(CONFIG.frames, streets=streets))[0]
    key, *_, right = sample.observation.frames
    assert len(sample.observation.frames) == 4 and right.stamp_ns == key.stamp_ns
    apart = np.linalg.inv(key.world_from_camera) @ right.world_from_camera
    assert apart[:3, 3] == pytest.approx((0.594, 0, 0), abs=0.01) and apart[:3, :3] == pytest.approx(
        np.eye(3), abs=1e-6
    )


def test_the_right_image_of_kitti_teaches_too(shared_data: Path) -> None:
    """Alone it has the depth of the lidar, at the baseline that the calibration file says."""
    root = shared_data / "kitti_odometry"
    odometry = OdometryFramesOptions(offsets=(), stereo=True, poses="kitti")
    config = PosedDataConfig("kitti_odometry", str(root), odometry)
    item = LiveItems(PosedFrames(config))[1]
    assert item.images.shape == (2, 256, 512, 3) and not np.array_equal(*item.images)
    lines = (root / "sequences" / "07" / "calib.txt").read_text().splitlines()
    left, right = (np.array(lines[camera].split()[1:], dtype=float).reshape(3, 4) for camera in (2, 3))
    apart = np.linalg.inv(left[:, :3]) @ (right[:, 3] - left[:, 3])
    assert apart[0] < -0.5 and item.neighbour_from_key[0, :3, 3] == pytest.approx(apart, abs=1e-5)
    found = best_depth(compiled_cost(item, DEPTHS)[None], DEPTHS)[0].numpy()
    scored = (item.depth_m < 20) & np.isfinite(found)
    error = np.abs(found - item.depth_m)[scored] / item.depth_m[scored]
    assert scored.sum() > 3000 and np.median(error) < 0.1
    further = item._replace(neighbour_from_key=2 * item.neighbour_from_key - np.eye(4, dtype=np.float32))
    twice = best_depth(compiled_cost(further, DEPTHS)[None], DEPTHS)[0].numpy()
    assert np.median((twice / item.depth_m)[(item.depth_m < 20) & np.isfinite(twice)]) > 1.7


def test_masks_that_dropout_needs_must_be_there(shared_data: Path, tmp_path: Path) -> None:
    assert DepthLossConfig(dropout=0.5, drop="moving").needs_masks
    assert not DepthLossConfig(drop="moving").needs_masks and not DepthLossConfig(dropout=0.5).needs_masks
    root = shutil.copytree(shared_data / "kitti_odometry", tmp_path / "data", copy_function=shutil.copyfile)
    config = PosedDataConfig("kitti_odometry", str(root))
    with pytest.raises(FileNotFoundError, match="got no masks of what moves, expected sequences/<name>/mvobj_mask"):
        PosedFrames(config, masks=True)
    (root / "sequences" / "07" / "mvobj_mask").mkdir()
    np.save(root / "sequences" / "07" / "mvobj_mask" / "000123.npy", np.ones((256, 512)))
    with pytest.raises(FileNotFoundError, match="got no masks of what moves.* of some of the 1 frames"):
        PosedFrames(config, masks=True)
    mask = np.zeros((256, 512), dtype=np.float32)
    mask[100:120, 300:340] = 1
    np.save(root / "sequences" / "07" / "mvobj_mask" / "000169.npy", mask)
    moving = LiveItems(PosedFrames(config, masks=True))[0].moving
    assert np.array_equal(moving, mask == 1)


def test_streets_where_nothing_moves_have_nothing_to_drop() -> None:
    streets = replace(CONFIG.frames.streets, street=replace(CONFIG.frames.streets.street, traffic=0.0))
    loss = replace(CONFIG.depth_loss, drop="moving", dropout=1.0)
    config = replace(CONFIG, frames=replace(CONFIG.frames, streets=streets), depth_loss=loss)
    with pytest.raises(ValueError, match="frames.streets.street.traffic: got 0, expected above 0"):
        make_task(config, Path("nowhere"))


def test_a_frozen_name_that_no_parameter_has_is_named(tmp_path: Path) -> None:
    config = replace(CONFIG, frozen=("_feature_extractor.", "mono_modul."))
    with pytest.raises(
        ValueError, match=r"frozen: got 'mono_modul\.', with which .* no parameter .* fusion_module\., "
    ):
        make_trainer(config, make_task(config, tmp_path), tmp_path)


def test_the_second_stage_of_the_documentation_is_a_configuration() -> None:
    text = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    block = yaml.safe_load(text.split("starts from the artifact of the first:")[1].split("```")[1].removeprefix("yaml"))
    config = from_mapping(
        TrainConfig,
        {"family": "dymultidepth", "model": {}, "frames": {}, "held_out_frames": {}, **block},
        "training.md",
    )
    assert config.start_from and config.frozen == ("mono_module.", "_feature_extractor.")
    assert config.depth_loss.branches == ("fused",) and config.depth_loss.dropout == 0.1
