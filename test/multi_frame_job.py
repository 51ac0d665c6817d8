"""A short training of multi-frame depth for tests that start processes: ``multi_frame_job.py OUT``.

Every process writes the loss of every step to ``OUT/losses_<rank>.txt``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from kyn_models import ranks
from kyn_models.data.depth_items import PosedDataConfig
from kyn_models.data.streets import StreetOptions, StreetsOptions
from kyn_models.loop import LoopConfig
from kyn_models.multi_frame_training import DepthLossConfig
from kyn_models.recipe import TrainConfig, make_task, make_trainer
from kyn_models.train import Trainer

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
    validate_every=4,
)
STREETS = StreetsOptions(
    streets=2,
    frames_per_street=2,
    first_seed=40,
    width=96,
    height=64,
    views=(),
    neighbours=(-1, 1),
    street=StreetOptions(drive_m=10.0, step_m=(1.0, 1.4), traffic=8.0),
)
CONFIG = TrainConfig(
    {"channels_enc": [8, 8, 16, 16, 16], "channels_dec": [16, 16, 16, 8, 8, 8], "fused_channels": 8},
    family="dymultidepth",
    frames=PosedDataConfig(streets=STREETS, cache=True),
    held_out_frames=PosedDataConfig(streets=STREETS, limit=3, cache=True),
    depth_loss=DepthLossConfig(images=4, farthest_m=100.0, dropout=0.1, sweep="compiled"),
    loop=LOOP,
    imagenet=False,
)


def job_trainer(out: Path) -> Trainer:
    """The trainer at step 0."""
    return make_trainer(CONFIG, make_task(CONFIG, out), out)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    trainer = job_trainer(out)
    step = trainer.step

    def logged(parts):
        terms = step(parts)
        with (out / f"losses_{ranks.here()[0]}.txt").open("a") as stream:
            print(terms["total"], file=stream)
        return terms

    trainer.step = logged
    assert trainer.run()
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
