"""The settings of the training loop: schedule, memory, speed. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LAST, BEST = "last.pt", "best.pt"
"""Checkpoints in the folder of a training."""


def part_of(images: int, part: int, parts: int) -> slice:
    """Which of the ``images`` of a step belong to one of ``parts`` equal parts.

    Raises ``ValueError`` where they do not divide.
    """
    if images % parts:
        raise ValueError(
            f"images of a step: got {images} for {parts} parts (processes times loop.accumulate), expected a multiple "
            "of that"
        )
    each = images // parts
    return slice(part * each, (part + 1) * each)


@dataclass(frozen=True)
class LoopConfig:
    """The loop's own settings.

    steps: optimiser steps in all. learning_rate: peak, after ``warmup`` steps. schedule: ``cosine`` falls to 0 along a
    half cosine; ``step`` is multiplied by ``decay`` after every ``decay_every`` steps, as published.
    encoder_rate: factor on it for parameters whose name starts with ``encoder_prefix`` (pretrained layers).
    weight_decay: of AdamW, which is Adam where it is 0. amsgrad: its variant that keeps the largest steps small.
    clip: longest gradient (0: as long as it is).
    average: decay of the moving average of the weights, which is what is validated and shipped (0: none).
    norms: ``batch`` normalises by each batch and learns statistics (of all processes together on GPUs), ``kept`` uses
    those of the pretrained weights, so that a step does not depend on how its batch is split.
    accumulate: parts that a process computes one after the other, for batches that do not fit into memory.
    precision: of convolutions and linear layers under autocast. compile: by torch's compiler. workers: threads that
    make batches. minutes: stop (resumable) after so long.
    """

    steps: int = 4000
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "step"] = "cosine"
    decay_every: int = 120_000
    decay: float = 0.1
    encoder_rate: float = 0.3
    encoder_prefix: str = "encoder.encoder."
    weight_decay: float = 1e-4
    amsgrad: bool = False
    warmup: int = 200
    clip: float = 1.0
    average: float = 0.998
    norms: Literal["batch", "kept"] = "batch"
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    workers: int = 1
    minutes: float = 90.0
    checkpoint_minutes: float = 5.0
    validate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "decay_every", "accumulate", "workers", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name}: got {getattr(self, name)}, expected at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"loop.learning_rate: got {self.learning_rate}, expected a rate above 0")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "step":
            return warm * self.decay ** (step // self.decay_every)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


NOT_COMPARED = ("minutes", "checkpoint_minutes", "workers", "compile", "validate_every")
"""Settings of the loop that a resumed run may change: the weights do not depend on them."""
