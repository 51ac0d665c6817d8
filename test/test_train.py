"""The loop and the losses on tiny data: what is learned, what a resumed run gives, what bad numbers do."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from kyn_models import losses
from kyn_models.loop import LoopConfig, part_of
from kyn_models.train import LAST, Trainer

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
    with pytest.raises(ValueError, match=r"step 3 \(square\)"):
        run.run()
    assert (tmp_path / LAST).read_bytes() == before


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
