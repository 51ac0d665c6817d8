"""Multi-frame depth learns from posed frames: batches, flips that keep geometry, dropout, the loop, its validation."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from multi_frame_job import CONFIG, LOOP, job_trainer

from kyn_models.artifact import Artifact
from kyn_models.data.depth_items import LiveItems, PosedDataConfig, PosedFrames, StoredItems, depth_item, store_items
from kyn_models.data.kitti_odometry_frames import OdometryFramesOptions
from kyn_models.data.street_sensors import INTRINSICS
from kyn_models.loop import LAST
from kyn_models.models.dymultidepth import input_of
from kyn_models.models.loading import load_model
from kyn_models.multi_frame_training import (
    DepthLossConfig,
    augmented,
    compiled_cost,
    depth_batch,
    mirrored,
    multi_frame_loss,
    validate_depth,
)
from kyn_models.networks.plane_sweep import cost_volume, sweep_depths
from kyn_models.recipe import TrainConfig, make_task, make_trainer, write_best

TEST = Path(__file__).parent
DEPTHS = sweep_depths(1 / 0.33, 400.0, 32, torch.zeros(1))


@pytest.fixture(scope="module")
def items() -> LiveItems:
    return LiveItems(PosedFrames(CONFIG.frames))


def torch_cost(item) -> torch.Tensor:
    images = torch.from_numpy(item.images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5)[None]
    k, pose = torch.from_numpy(item.k)[None], torch.from_numpy(item.neighbour_from_key)[None]
    return cost_volume(images[:, 0], k[:, 0], images[:, 1:], pose, k[:, 1:], DEPTHS)[0]


def test_an_item_is_what_the_model_is_asked_elsewhere() -> None:
    frames = PosedFrames(CONFIG.frames)
    sample = frames[0]
    item, asked = depth_item(sample), input_of(sample.observation)
    assert item.images.shape == (3, 64, 96, 3) and item.depth_m.dtype == np.float32
    assert np.allclose(item.k[0], asked.k[0]) and np.allclose(item.neighbour_from_key, asked.neighbour_from_key[0])
    # The published form: centres scale with the image.
    assert item.k[0, 0, 2] == pytest.approx(INTRINSICS.cx * 96 / 1408)
    assert item.k[0, 1, 2] == pytest.approx(INTRINSICS.cy * 64 / 376)
    # The car drove on: what the frame before saw lies further away.
    assert item.neighbour_from_key[0, 2, 3] > 0.5 and item.neighbour_from_key[1, 2, 3] < -0.5


def test_a_mirrored_item_has_the_mirrored_cost_volume(items: LiveItems) -> None:
    item = items[0]
    plain, other = torch_cost(item), torch_cost(mirrored(item))
    assert (plain != 0).float().mean() > 0.3
    difference = (plain.flip(2) - other).abs()
    # At single pixels rounding decides whether a neighbour sees them on all planes.
    assert torch.quantile(difference.flatten()[::7], 0.995) < 1e-3
    twice = mirrored(mirrored(item))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(twice, item, strict=True))
    unmoved = mirrored(item)._replace(neighbour_from_key=item.neighbour_from_key, k=item.k)
    assert torch.quantile((plain.flip(2) - torch_cost(unmoved)).abs().flatten()[::7], 0.995) > 0.1


def test_the_compiled_cost_volume_is_that_of_torch(items: LiveItems) -> None:
    assert torch.quantile((compiled_cost(items[1], DEPTHS) - torch_cost(items[1])).abs().flatten()[::7], 0.995) < 1e-3


def test_a_batch_is_a_function_of_seed_and_step_and_divides(items: LiveItems) -> None:
    config = DepthLossConfig(images=4, farthest_m=60.0)
    whole = depth_batch(items, config, DEPTHS, 1, 3)
    parts = [depth_batch(items, config, DEPTHS, 1, 3, part) for part in (slice(0, 2), slice(2, 4))]
    assert all(torch.equal(torch.cat([part[name] for part in parts]), value) for name, value in whole.items())
    other = depth_batch(items, config, DEPTHS, 1, 4)
    assert not torch.equal(other["images"], whole["images"])
    assert whole["images"].min() >= -0.5 and whole["images"].max() <= 0.5
    assert float(whole["target"].min()) == pytest.approx(1 / 60) and whole["sky"].any()
    assert torch.equal(whole["sky"], whole["target"] == whole["target"].min())


def test_the_sky_teaches_nothing_where_it_has_no_depth(items: LiveItems) -> None:
    batch = depth_batch(items, DepthLossConfig(images=2), DEPTHS, 1, 0)
    assert torch.equal(batch["sky"], batch["target"] == 0) and batch["sky"].any()


def test_colours_change_alike_in_all_frames_and_geometry_does_not(items: LiveItems) -> None:
    item, config = items[0], DepthLossConfig(flip=False)
    same = item._replace(images=np.stack([item.images[0]] * 3))
    changed = augmented(same, config, np.random.default_rng(0))
    assert np.array_equal(changed.images[0], changed.images[2]) and not np.array_equal(changed.images, same.images)
    assert all(np.array_equal(a, b) for a, b in zip(changed[1:], same[1:], strict=True))


def test_dropped_cues_do_not_reach_the_answer(items: LiveItems) -> None:
    trainer = job_trainer_model()
    batch = depth_batch(items, DepthLossConfig(images=2), DEPTHS, 1, 0)
    image, none = batch["images"][:, 0], torch.zeros(2, 1, 64, 96)
    costs = [torch.rand(2, 32, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with torch.no_grad():
        blind = [trainer.inverse_depths(image, cost, none).fused[0] for cost in costs]
        seeing = [trainer.inverse_depths(image, cost).fused[0] for cost in costs]
    assert torch.equal(*blind) and not torch.equal(*seeing)


def job_trainer_model() -> torch.nn.Module:
    from kyn_models.models.loading import make_model

    torch.manual_seed(0)
    return make_model("dymultidepth", CONFIG.model, "model").eval()


def test_stored_items_are_the_live_ones(tmp_path: Path, items: LiveItems) -> None:
    frames = PosedFrames(CONFIG.frames)
    stored = store_items(tmp_path, frames, {"what": 1})
    assert len(StoredItems(tmp_path)) == len(frames) == len(items)
    for name, live, read in zip(items[1]._fields, items[1], stored[1], strict=True):
        assert np.allclose(live, read, rtol=1e-3 if name == "depth_m" else 0), name
    assert stored.moving_share() == pytest.approx(np.mean([items[i].moving.mean() for i in range(len(items))]))
    with pytest.raises(ValueError, match="what"):
        store_items(tmp_path, frames, {"what": 2})


def test_validation_knows_a_perfect_answer_and_a_wrong_one(items: LiveItems) -> None:
    class Known(torch.nn.Module):
        """Says the truth in fused, half of it in mono."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.at = torch.nn.Parameter(torch.zeros(1)), 0

        def depths(self, like: torch.Tensor) -> torch.Tensor:
            return DEPTHS

        def inverse_depths(self, image: torch.Tensor, cost: torch.Tensor):
            inverse = 1 / torch.from_numpy(items[self.at].depth_m)[None, None]
            self.at += 1
            return type("Found", (), {"fused": (inverse,), "mono": (2 * inverse,)})

    score, numbers = validate_depth(Known(), items, DepthLossConfig(sweep="compiled"))
    assert score == numbers["fused"] < 1e-5
    # Halves below 3 m are cut there.
    assert 0.3 < numbers["mono"] <= 0.5
    assert numbers["matched static"] > 0 and set(numbers) >= {"fused moving", "fused static", "matched moving"}


def test_a_short_training_falls_and_ends_in_an_artifact(tmp_path: Path) -> None:
    config = replace(CONFIG, loop=replace(LOOP, steps=12, validate_every=12))
    task = make_task(config, tmp_path / "streets")
    trainer = make_trainer(config, task, tmp_path)
    batch = task.batches(0, 0, 1)
    first = sum(float(value.detach()) for value in multi_frame_loss(trainer.model, batch, config.depth_loss).values())
    assert trainer.run()
    last = sum(float(value.detach()) for value in multi_frame_loss(trainer.model, batch, config.depth_loss).values())
    assert last < 0.8 * first
    artifact = Artifact.load(write_best(config, task, tmp_path, "test.yaml"))
    assert artifact.manifest.family == "dymultidepth" and artifact.manifest.camera.width == 96
    assert artifact.manifest.licences.weights == "Apache-2.0"
    assert artifact.manifest.input == "RGB uint8, image / 255 - 0.5"
    frames = PosedFrames(CONFIG.frames)
    with torch.no_grad():
        answer = load_model(artifact)(*input_of(frames[0].observation))
    assert answer.fused.shape == (1, 64, 96) and torch.isfinite(answer.fused).all()


def test_resuming_equals_no_pause(tmp_path: Path) -> None:
    whole, first = job_trainer(tmp_path / "whole"), job_trainer(tmp_path / "parts")
    assert whole.run()
    for step in range(2):
        first.step(first._parts(step))
    first.save(LAST)
    second = job_trainer(tmp_path / "parts")
    assert second.resume() and second.run()
    weights = second.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.model.state_dict().items())


def test_two_processes_give_the_losses_and_weights_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{TEST.parent}{os.pathsep}{TEST}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, TEST / "multi_frame_job.py", tmp_path / "two"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    one = job_trainer(tmp_path / "one")
    names = [name for name, _ in one.model.named_parameters()]
    start = flat(one.model.state_dict(), names)
    expected = [one.step(one._parts(step))["total"] for step in range(LOOP.steps)]
    for rank in range(2):
        lines = (tmp_path / "two" / f"losses_{rank}.txt").read_text().split()
        assert [float(line) for line in lines] == pytest.approx(expected, rel=1e-3)
    alone = flat(one.model.state_dict(), names)
    together = flat(torch.load(tmp_path / "two" / LAST, weights_only=True)["model"], names)
    # Adam makes a step of the gradients' signs: rounding counts where a gradient is next to nothing.
    assert (alone - together).norm() < 0.02 * (alone - start).norm()


def flat(weights: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([weights[name].double().flatten() for name in names])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"frames": None}, "frames, held_out_frames: got none and one for dymultidepth, expected both"),
        ({"family": "bts", "model": {}}, "frames, held_out_frames: got one and one for bts"),
        ({"start_density": 0.1}, "data, start_density: got one of them"),
        (
            {"held_out_frames": replace(CONFIG.frames, streets=replace(CONFIG.frames.streets, width=160))},
            r"held_out_frames.size: got \[64, 160\], expected that of frames",
        ),
    ],
)
def test_what_does_not_belong_together_is_said(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: PosedDataConfig("kitti_odometry"), "frames.root: got none"),
        (lambda: replace(CONFIG.frames, streets=replace(CONFIG.frames.streets, neighbours=())), "neighbours: got none"),
        (lambda: replace(CONFIG.frames, streets=replace(CONFIG.frames.streets, width=100)), "got images of 64x100"),
        (lambda: DepthLossConfig(dropout=1.0), "depth_loss.dropout: got 1.0"),
        (lambda: DepthLossConfig(dropout=1.0, drop="items"), "depth_loss.dropout: got 1.0"),
        (lambda: DepthLossConfig(dropout=1.1, drop="moving"), "depth_loss.dropout: got 1.1"),
        (lambda: DepthLossConfig(branches=("mono",), dropout=0.1), "expected 0 where the fused branch does not learn"),
        (lambda: DepthLossConfig(branches=()), r"depth_loss.branches: got \(\)"),
        (lambda: DepthLossConfig(branches=("mono", "mono")), "depth_loss.branches: got"),
        (lambda: DepthLossConfig(images=0), "depth_loss.images: got 0"),
        (lambda: DepthLossConfig(depth=-4.0), "depth_loss.depth: got -4.0, expected a number of 0 or above"),
        (lambda: DepthLossConfig(normals=-1.0), "depth_loss.normals: got -1.0"),
        (lambda: DepthLossConfig(farthest_m=-5.0), "depth_loss.farthest_m: got -5.0"),
        (lambda: DepthLossConfig(depth=float("nan")), "depth_loss.depth: got nan"),
        (lambda: DepthLossConfig(depth=0.0, normals=0.0), "depth_loss.depth, normals: got 0 for both"),
        (
            lambda: replace(CONFIG.frames, per_sequence=5),
            "frames.per_sequence: got settings that nothing reads for lay",
        ),
        (
            lambda: replace(CONFIG.frames, odometry=OdometryFramesOptions(poses="kitti")),
            "frames.odometry: got settings",
        ),
        (
            lambda: replace(CONFIG.frames, root="data"),
            "frames.root: got settings that nothing reads for layout streets",
        ),
        (lambda: replace(CONFIG.frames, limit=-1), "frames.limit: got -1, expected a number of items, 0 for all"),
        (
            lambda: PosedDataConfig("kitti_odometry", "data", streets=CONFIG.frames.streets),
            "frames.streets: got settings that nothing reads for layout kitti_odometry, expected none; leave",
        ),
        (
            lambda: PosedDataConfig("kitti_odometry", "data", OdometryFramesOptions(offsets=())),
            "frames.odometry.offsets: got none",
        ),
        (
            lambda: replace(CONFIG.frames.streets, key_camera="left", stereo=True),
            "streets.stereo: got key camera left, expected 00",
        ),
    ],
)
def test_wrong_values_are_named(wrong, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_config_is_plain() -> None:
    assert isinstance(CONFIG, TrainConfig) and CONFIG.frames is not None
