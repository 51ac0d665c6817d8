"""One training loop for every family: the model says its loss, the loop owns time, files and curves. torch.

A step is a function of (seed, step): which items, which augmentation, which random samples. Resuming from a
checkpoint therefore gives bit for bit what an uninterrupted run gives on the same machine.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
LAST, BEST = "last.pt", "best.pt"
SAVED = ("model", "averaged", "optimiser", "step", "best", "settings")
"""Keys of a checkpoint."""


Loss = Callable[[nn.Module, Batch, int], dict[str, Tensor]]
"""From (model, batch, step) to named loss terms, already weighted; their sum is what falls."""


@dataclass(frozen=True)
class LoopConfig:
    """The loop's own settings.

    steps: optimiser steps in all. learning_rate: peak, after ``warmup`` steps, falling to 0 along a half cosine.
    encoder_rate: factor on it for parameters whose name starts with ``encoder_prefix`` (pretrained layers).
    average: decay of the moving average of the weights, which is what is validated and shipped (0: none).
    precision: of convolutions and linear layers under autocast. minutes: stop (resumable) after so long.
    """

    steps: int = 4000
    learning_rate: float = 1e-3
    encoder_rate: float = 0.3
    encoder_prefix: str = "encoder.encoder."
    weight_decay: float = 1e-4
    warmup: int = 200
    clip: float = 1.0
    average: float = 0.998
    precision: Literal["float32", "bfloat16"] = "float32"
    minutes: float = 90.0
    checkpoint_minutes: float = 5.0
    validate_every: int = 500
    seed: int = 0


@dataclass
class _State:
    step: int = 0
    best: float = math.inf


class Trainer:
    """A model, its optimiser and its place in the schedule.

    loss: see ``Loss``. batches: ``batches(step) -> Batch`` on the CPU.
    validate: ``validate(model) -> (score, numbers)``, lower is better; the best model is kept by that score.
    out: folder for checkpoints and TensorBoard curves. settings: saved in each checkpoint, a resumed run must match.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        loop: LoopConfig,
        batches: Callable[[int], Batch],
        validate: Callable[[nn.Module], tuple[float, dict[str, float]]],
        out: Path,
        settings: Mapping[str, Any],
        device: str = "cpu",
    ) -> None:
        self.loop, self.out, self.settings, self.device = loop, out, dict(settings), device
        self.model = model.to(device)
        self.averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self._groups(), lr=loop.learning_rate, weight_decay=loop.weight_decay)
        self._loss, self._batches, self._validate = loss, batches, validate
        self.state = _State()
        out.mkdir(parents=True, exist_ok=True)

    def _groups(self) -> list[dict[str, Any]]:
        prefix, rate = self.loop.encoder_prefix, self.loop.encoder_rate
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name.startswith(prefix)], "factor": rate},
            {"params": [p for name, p in named if not name.startswith(prefix)], "factor": 1.0},
        ]

    def resume(self) -> bool:
        """Continue from the last checkpoint in ``out``; False if there is none.

        Raises ``ValueError`` if that checkpoint is damaged or was written with other settings.
        """
        path = self.out / LAST
        if not path.is_file():
            return False
        saved = self._read(path)
        if saved["settings"] != self.settings:
            differing = [key for key in self.settings if saved["settings"].get(key) != self.settings[key]]
            raise ValueError(
                f"{path}: was written with other settings ({', '.join(differing) or 'fewer'} differ), "
                "expected the same; choose another output folder or the old configuration"
            )
        self.model.load_state_dict(saved["model"])
        self.averaged = saved["averaged"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.state = _State(saved["step"], saved["best"])
        return True

    def _read(self, path: Path) -> dict[str, Any]:
        """What ``save`` wrote, or ``ValueError``: torch has several exceptions for a damaged file, none names it."""
        cause: Exception | None = None
        saved = None
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
            cause = error
        if not isinstance(saved, dict) or not set(SAVED) <= set(saved):
            raise ValueError(
                f"{path}: got a file that is damaged or no checkpoint, expected one that this training wrote; "
                f"copy {BEST} over it to go on from the best step, or delete it to start again"
            ) from cause
        return saved

    def save(self, name: str) -> None:
        """Write a checkpoint at once and completely, or not at all."""
        scratch = self.out / (name + ".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "averaged": self.averaged,
                "optimiser": self.optimiser.state_dict(),
                "step": self.state.step,
                "best": self.state.best,
                "settings": self.settings,
            },
            scratch,
        )
        os.replace(scratch, self.out / name)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.loop.warmup))
        return self.loop.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.loop.steps))

    def run(self) -> bool:
        """Train until all steps are done (True) or the minutes are over (False, resumable).

        Raises ``ValueError`` at a loss that is not finite, naming the step; the last good checkpoint stays.
        """
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        started = saved = time.monotonic()
        bar = tqdm(total=self.loop.steps, initial=self.state.step, unit="step", dynamic_ncols=True, mininterval=5)
        with (
            SummaryWriter(str(self.out / "curves"), purge_step=self.state.step) as writer,
            bar,
            _Prefetch(self._batches, self.state.step, self.loop.steps) as batches,
        ):
            for batch in batches:
                terms = self.step(batch)
                bar.update()
                if self.state.step % 20 == 0:
                    bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
                    for name, value in terms.items():
                        writer.add_scalar(f"loss/{name}", value, self.state.step)
                    writer.add_scalar("rate", self.rate(self.state.step), self.state.step)
                done = self.state.step == self.loop.steps
                if done or self.state.step % self.loop.validate_every == 0:
                    self._validated(writer)
                late = time.monotonic() - started > 60 * self.loop.minutes
                if done or late or time.monotonic() - saved > 60 * self.loop.checkpoint_minutes:
                    self.save(LAST)
                    saved = time.monotonic()
                if late and not done:
                    log.warning("stopped at step %d after %.0f minutes", self.state.step, self.loop.minutes)
                    return False
        return True

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms and their sum."""
        loop, step = self.loop, self.state.step
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step) * group["factor"]
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        half = loop.precision == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16) if half else nullcontext():
            terms = self._loss(self.model, batch, step)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            bad = [name for name, value in terms.items() if not torch.isfinite(value)]
            raise ValueError(f"loss is not finite at step {step} ({', '.join(bad)}); the last checkpoint is kept")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), loop.clip)
        self.optimiser.step()
        self.state.step += 1
        self._average()
        return {"total": float(total.detach()), **{name: float(value.detach()) for name, value in terms.items()}}

    def _average(self) -> None:
        # The decay rises with the step, so that the average forgets the random start.
        decay = min(self.loop.average, (1 + self.state.step) / (10 + self.state.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - decay)
            else:
                self.averaged[name].copy_(value)

    def _validated(self, writer: Any) -> None:
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            score, numbers = self._validate(self.model)
        self.model.train(was_training)
        self.model.load_state_dict(own)
        for name, value in numbers.items():
            writer.add_scalar(f"validation/{name}", value, self.state.step)
        log.info("step %d: %s", self.state.step, ", ".join(f"{k} {v:.4f}" for k, v in numbers.items()))
        if score < self.state.best:
            self.state = replace(self.state, best=score)
            self.save(BEST)


class _Prefetch:
    """Batches of steps ``first`` to ``last``, made by a thread while the model computes."""

    def __init__(self, batches: Callable[[int], Batch], first: int, last: int) -> None:
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(batches, first, last), daemon=True)

    def _work(self, batches: Callable[[int], Batch], first: int, last: int) -> None:
        try:
            for step in range(first, last):
                self._put(batches(step))
            self._put(None)
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __enter__(self) -> Iterator[Batch]:
        self._thread.start()
        return self._items()

    def _items(self) -> Iterator[Batch]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
