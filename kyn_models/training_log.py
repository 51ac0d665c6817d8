"""What a training shows while it runs: progress, TensorBoard curves, and whether the data keeps up with the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from kyn_models.prefetch import Prefetch

log = logging.getLogger(__name__)

SHOWN_EVERY = 20
"""Steps between two points of a curve."""
PACE_EVERY = 200
"""Steps between two comparisons of data and steps, after a first one."""


class Pace:
    """Steps per second that the model could take and that the data could give. ``with pace:`` surrounds a step."""

    def __init__(self, prefetch: Prefetch) -> None:
        self._prefetch, self._steps, self._seconds = prefetch, 0, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._steps, self._seconds = self._steps + 1, self._seconds + time.perf_counter() - self._started

    def measured(self, items: int) -> tuple[float, float]:
        """Items per second (given by the data, taken by the steps) since the last call; ``items`` are in one step."""
        taken = items * self._steps / self._seconds if self._seconds > 0 else 0.0
        self._steps, self._seconds = 0, 0.0
        return items * self._prefetch.rate(), taken


class Curves:
    """Progress bar and TensorBoard curves under ``out/curves``; closed with ``stack``."""

    def __init__(self, out: Path, step: int, steps: int, stack: ExitStack) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self._bar = stack.enter_context(tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True, mininterval=5))
        self._writer = stack.enter_context(SummaryWriter(str(out / "curves"), purge_step=step))
        self._first = step + SHOWN_EVERY

    def add(self, step: int, terms: Mapping[str, float], rate: float) -> None:
        """The loss terms and the learning rate of a step."""
        self._bar.update()
        if step % SHOWN_EVERY == 0:
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
            for name, value in terms.items():
                self._writer.add_scalar(f"loss/{name}", value, step)
            self._writer.add_scalar("rate", rate, step)

    def pace(self, step: int, pace: Pace, items: int) -> None:
        """Now and then, whether the data keeps up."""
        if step != self._first and step % PACE_EVERY:
            return
        given, taken = pace.measured(items)
        self._writer.add_scalar("pace/data", given, step)
        self._writer.add_scalar("pace/step", taken, step)
        text = "step %d: data %.1f items/s, the step takes %.1f"
        if given < taken:
            log.warning(text + "; it waits: more loop.workers, or smaller stored images", step, given, taken)
        else:
            log.info(text, step, given, taken)

    def validated(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a validation."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
