"""The loop and the losses on tiny data: what is learned, what a resumed run gives, what bad numbers do."""

import itertools
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from kyn_models import losses, training_log
from kyn_models.loop import LAST, LoopConfig, part_of
from kyn_models.prefetch import Prefetch
from kyn_models.train import Trainer

LOOP = LoopConfig(steps=12, learning_rate=0.05, warmup=2, average=0.9, validate_every=4, encoder_prefix="0.")


def batches(step: int, part: int = 0, parts: int = 1) -> dict:
    rng = np.random.default_rng((7, step))
    x = torch.from_numpy(rng.standard_normal((16, 4), dtype=np.float32))[part_of(16, part, parts)]
    return {"x": x, "y": x.sum(dim=1, keepdim=True), "items": torch.arange(16)[part_of(16, part, parts)]}


def loss(model, batch, step):
    return {"square": (model(batch["x"]) - batch["y"]).square().mean()}


def validate(model):
    batch = batches(10_000)
    value = float(loss(model, batch, 0)["square"].detach())
    return value, {"square": value}


def trainer(out, loop=LOOP, loss=loss) -> Trainer:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    return Trainer(model, loss, loop, batches, validate, out, {"name": "test"})


def test_loss_falls_and_the_best_model_is_kept(tmp_path):
    run = trainer(tmp_path, replace(LOOP, steps=150, validate_every=50))
    first = validate(run.model)[0]
    assert run.run()
    assert run.state.best < 0.2 * first
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    run.model.load_state_dict(best["averaged"])
    assert validate(run.model)[0] == pytest.approx(best["best"], rel=1e-5)


def test_resuming_equals_no_pause(tmp_path):
    whole = trainer(tmp_path / "whole")
    assert whole.run()
    first = trainer(tmp_path / "parts")
    for step in range(5):
        first.step([batches(step)])
    first.save(LAST)
    second = trainer(tmp_path / "parts")
    assert second.resume() and second.state.step == 5
    assert second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, value in whole.averaged.items():
        assert torch.equal(value, second.averaged[name]), name


def test_minutes_over_is_resumable_and_its_curves_are_closed(tmp_path, monkeypatch):
    from torch.utils import tensorboard

    closed = []
    close = tensorboard.SummaryWriter.close
    monkeypatch.setattr(tensorboard.SummaryWriter, "close", lambda self: (closed.append(self), close(self)))
    run = trainer(tmp_path, replace(LOOP, minutes=0.0))
    assert not run.run() and len(closed) == 1
    assert trainer(tmp_path).resume()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_named_and_the_best_one_can_take_its_place(tmp_path, damage):
    run = trainer(tmp_path)
    run.save("best.pt")
    whole = (tmp_path / "best.pt").read_bytes()
    path = tmp_path / LAST
    if damage == "other":
        torch.save({"model": {}}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no checkpoint"}[damage])
    with pytest.raises(ValueError, match=r"last\.pt: got a file that is damaged.*best\.pt.*delete it") as error:
        trainer(tmp_path).resume()
    assert "\n" not in str(error.value)
    path.write_bytes(whole)
    assert trainer(tmp_path).resume()


def test_accumulation_equals_the_whole_batch(tmp_path):
    whole = trainer(tmp_path / "whole")
    parts = trainer(tmp_path / "parts", replace(LOOP, accumulate=4))
    for step in range(LOOP.steps):
        assert len(parts._parts(step)) == 4
        assert parts.step(parts._parts(step)) == pytest.approx(whole.step(whole._parts(step)), rel=1e-5)
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, parts.model.state_dict()[name], atol=1e-5), name


def test_a_batch_that_cannot_be_divided_is_named():
    assert [part_of(6, part, 3) for part in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match=r"images of a step: got 6 for 4 parts.*multiple"):
        part_of(6, 0, 4)


def test_the_rate_falls_in_steps_as_published_or_along_a_cosine():
    published = LoopConfig(steps=306_250, learning_rate=1e-4, schedule="step", decay_every=120_000, warmup=0)
    rates = [published.rate(step) for step in (0, 119_999, 120_000, 239_999, 240_000)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    cosine = LoopConfig(steps=100, learning_rate=1.0, warmup=10)
    assert [cosine.rate(step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.5, 0.0], abs=1e-6)


def test_a_step_draws_the_same_random_numbers_after_a_pause(tmp_path):
    def dropped(model, batch, step):
        x = torch.nn.functional.dropout(batch["x"], 0.5)
        return {"square": (model(x) - batch["y"]).square().mean()}

    whole, first, second = (trainer(tmp_path / name, loss=dropped) for name in ("whole", "parts", "parts"))
    for step in range(6):
        last = whole.step([batches(step)])
    for step in range(5):
        first.step([batches(step)])
    first.save(LAST)
    torch.rand(3)
    assert second.resume() and second.step([batches(5)]) == last


def test_frozen_parts_keep_their_weights_and_statistics(tmp_path):
    torch.manual_seed(0)
    norm = [torch.nn.BatchNorm1d(8) for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), norm[0], torch.nn.Linear(8, 8), norm[1], torch.nn.Linear(8, 1))
    for part in model[:2]:
        part.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = Trainer(model, loss, LOOP, batches, validate, tmp_path, {})
    assert run.run()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"2", "3", "4"}
    assert "3.running_mean" in changed and run.averaged["0.weight"].data_ptr() == model[0].weight.data_ptr()
    kept = Trainer(model, loss, replace(LOOP, norms="kept"), batches, validate, tmp_path / "kept", {})
    mean = norm[1].running_mean.clone()
    kept.step([batches(0)])
    assert torch.equal(mean, norm[1].running_mean)


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
    run = trainer(tmp_path)
    run.save(LAST)
    before = (tmp_path / LAST).read_bytes()
    (tmp_path / f"{LAST}.part").symlink_to("/dev/full")
    run.step([batches(0)])
    with pytest.raises(ValueError, match=r"last\.pt: step 1 could not be saved.*free some space") as error:
        run.save(LAST)
    assert "\n" not in str(error.value)
    assert (tmp_path / LAST).read_bytes() == before and not (tmp_path / f"{LAST}.part").is_symlink()
    run.save(LAST)
    assert trainer(tmp_path).resume()


def test_what_the_data_gives_is_compared_with_what_the_step_takes(tmp_path, caplog):
    caplog.set_level("INFO", "kyn_models")
    assert trainer(tmp_path, replace(LOOP, steps=20, workers=2)).run()
    assert re.search(r"step 20: data [\d.]+ items/s, the step takes [\d.]+", caplog.text)


@pytest.mark.parametrize(("data_s", "waits"), [(4.0, True), (1.0, False)])
def test_data_that_is_slower_than_the_step_is_a_warning(tmp_path, caplog, monkeypatch, data_s, waits):
    """By a clock that counts its readings: a step takes one second, two threads take ``data_s`` for a step's data."""
    caplog.set_level("INFO", "kyn_models")
    readings = itertools.count()
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: float(next(readings)))
    prefetch = Prefetch(lambda step: step, 0, 4, 2)
    prefetch._spent.extend([data_s] * 3)
    pace = training_log.Pace(prefetch)
    for _ in range(3):
        with pace:
            pass
    with ExitStack() as stack:
        training_log.Curves(tmp_path, 0, 40, stack).pace(20, pace, items=16)
    given = 2 / data_s * 16
    assert f"step 20: data {given:.1f} items/s, the step takes 16.0" in caplog.text
    assert ("it waits: more loop.workers" in caplog.text) is waits


def test_without_a_compiler_compile_says_so(tmp_path):
    program = (
        "from kyn_models.train import require_compiler\n"
        "try: require_compiler('cpu')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    root = Path(losses.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True)
    assert re.match(r"loop\.compile: torch cannot compile for cpu here \(.*\), expected g\+\+.*false\n$", done.stdout)


def test_other_settings_are_refused(tmp_path):
    run = trainer(tmp_path)
    run.save(LAST)
    other = trainer(tmp_path)
    other.settings = {"name": "other"}
    with pytest.raises(ValueError, match="name"):
        other.resume()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    def broken(model, batch, step):
        value = loss(model, batch, step)["square"]
        return {"square": value * float("nan") if step == 3 else value}

    run = trainer(tmp_path, loss=broken)
    run.save(LAST)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(ValueError, match=r"step 3 \(square\), its batch was item 0, .*item 7 and 8 more; the last"):
        run.run()
    assert (tmp_path / LAST).read_bytes() == before


def test_a_part_with_a_broken_item_is_named_alone(tmp_path):
    def broken(model, batch, step):
        return {"square": loss(model, batch, step)["square"] / (batch["items"] != 5).all()}

    run = trainer(tmp_path, replace(LOOP, accumulate=8), broken)
    with pytest.raises(ValueError, match=r"not finite at step 0 \(square\), its batch was item 4, item 5; the last"):
        run.run()


def test_a_gradient_that_is_not_finite_stops_before_the_weights_break(tmp_path):
    def steep(model, batch, step):
        return {"square": loss(model, batch, step)["square"] + torch.sqrt(0 * model[0].weight.sum())}

    run = trainer(tmp_path, loss=steep)
    with pytest.raises(ValueError, match="gradient is not finite at step 0 though the loss is"):
        run.run()
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


def test_an_error_while_loading_reaches_the_caller(tmp_path):
    run = trainer(tmp_path)
    run._batches = lambda *part: (_ for _ in ()).throw(OSError("disk is gone"))
    with pytest.raises(OSError, match="disk is gone"):
        run.run()


def test_occupancy_loss_is_the_cross_entropy_of_the_stated_probability():
    sigma = torch.tensor([[0.1, 0.5, 2.0, 3.0]])
    truth = torch.tensor([[0.0, 1.0, 1.0, float("nan")]])
    p = 1 - 2 ** (-2 * sigma[0, :3].double())
    expected = -(torch.log(1 - p[0]) + torch.log(p[1]) + torch.log(p[2])) / 3
    assert losses.occupancy_loss(sigma, truth).item() == pytest.approx(expected.item(), rel=1e-5)


def test_depth_loss_knows_surface_sky_and_unknown():
    depth, passed = torch.tensor([[10.0, 70.0, 5.0, 9.0]]), torch.tensor([[0.0, 0.25, 0.0, 0.0]])
    truth = torch.tensor([[20.0, float("inf"), float("nan"), 2.0]])
    expected = (np.log(2.0) + 0.75) / 2
    assert losses.depth_loss(depth, passed, truth, 3.0, 80.0).item() == pytest.approx(expected, rel=1e-5)


def test_colour_loss_is_zero_for_equal_patches_and_skips_what_no_view_has():
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    unseen = torch.zeros(2, 8, 8)
    assert losses.colour_loss(image, image, unseen).item() == pytest.approx(0, abs=1e-6)
    assert losses.colour_loss(image, 1 - image, unseen).item() > 0.1
    assert losses.colour_loss(image, 1 - image, unseen + 1).item() == 0
