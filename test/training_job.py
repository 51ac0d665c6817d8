"""A short self-supervised training for tests that start processes: ``training_job.py DRIVE OUT [RANK THAT DIES ONCE]``.

Every process writes the loss of every step it did to ``OUT/losses_<rank>.txt``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from artifacts import TINY

from kyn_models import config as configuration
from kyn_models import ranks
from kyn_models.data.sources import DataConfig
from kyn_models.loop import LoopConfig
from kyn_models.recipe import TrainConfig, make_task, make_trainer
from kyn_models.train import Trainer
from kyn_models.view_synthesis import ViewLossConfig

LOOP = LoopConfig(
    steps=4,
    learning_rate=1e-3,
    schedule="step",
    warmup=0,
    weight_decay=0,
    encoder_rate=1.0,
    clip=0,
    average=0,
    norms="kept",
    checkpoint_minutes=0,
    validate_every=4,
)
DIES_AT = 2


def job_config(drive: Path, loop: LoopConfig = LOOP) -> TrainConfig:
    """Four images of 64x96 pixels per step from a tiny stereo drive."""
    data = DataConfig("kitti360", str(drive), size=(64, 96))
    return TrainConfig(
        configuration.to_mapping(TINY),
        data=data,
        held_out=DataConfig("kitti360", str(drive), size=(64, 96), depth=True, limit=3),
        view_loss=ViewLossConfig(images=4, rays=128, samples=16, sample_mode="stereo"),
        loop=loop,
        imagenet=False,
    )


def job_trainer(drive: Path, out: Path, loop: LoopConfig = LOOP) -> Trainer:
    """The trainer of ``job_config`` at step 0."""
    config = job_config(drive, loop)
    return make_trainer(config, make_task(config, out), out)


def main(drive: Path, out: Path, dies: int | None) -> None:
    torch.set_num_threads(1)
    trainer = job_trainer(drive, out)
    trainer.resume()
    step = trainer.step

    def logged(parts):
        number = trainer.state.step
        if number == DIES_AT and ranks.here()[0] == dies and not (out / "died").exists():
            (out / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        terms = step(parts)
        with (out / f"losses_{ranks.here()[0]}.txt").open("a") as stream:
            print(number, terms["total"], file=stream)
        return terms

    trainer.step = logged
    assert trainer.run()
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
