"""One training loop for every family: the model says its loss, the loop owns time, files and curves. torch.

A step is a function of (seed, step): which items, which augmentation, which random samples. Resuming from a
checkpoint therefore gives bit for bit what an uninterrupted run gives on the same machine, and the processes of
``torchrun`` need only agree on who takes which part of a step's batch.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kyn_models import ranks
from kyn_models.loop import BEST, LAST, LoopConfig
from kyn_models.prefetch import Prefetch
from kyn_models.training_log import Curves, Pace

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
SAVED = ("model", "averaged", "optimiser", "step", "best", "settings")
"""Keys of a checkpoint."""
NAMED_AT_MOST = 8
"""Items that an error lists before it only counts."""

Loss = Callable[[nn.Module, Batch, int], dict[str, Tensor]]
"""From (model, batch, step) to named loss terms, already weighted; their sum is what falls."""

Batches = Callable[[int, int, int], Batch]
"""From (step, part, parts) to that part of the step's batch, one of ``parts`` equal ones; all of it for (step, 0, 1).
``items`` (B,) in it, where there is one, numbers the items that it was made of."""


@dataclass
class _State:
    step: int = 0
    best: float = math.inf


class _Step(nn.Module):
    """Model and loss as the one module that torch's distribution wants."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return self.loss(self.model, batch, step)


class Trainer:
    """A model, its optimiser and its place in the schedule.

    loss: see ``Loss``; in one of several processes, or with ``accumulate``, the mean over the parts of the batch.
    batches: see ``Batches``, on the CPU. validate: ``validate(model) -> (score, numbers)``, lower is better; the best
    model is kept by that score; every process calls it and must get the same answer (see ``ranks.gather``).
    out: folder for checkpoints and TensorBoard curves, which the first process writes. settings: saved in each
    checkpoint, a resumed run must match. item_name: of an item number in a batch, for messages.
    Raises ``ValueError`` where ``compile`` is asked for and there is no compiler.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        loop: LoopConfig,
        batches: Batches,
        validate: Callable[[nn.Module], tuple[float, dict[str, float]]],
        out: Path,
        settings: Mapping[str, Any],
        device: str = "cpu",
        item_name: Callable[[int], str] = "item {}".format,
    ) -> None:
        self.loop, self.out, self.settings, self.device = loop, out, dict(settings), device
        self.rank, self.world = ranks.here()
        if self.world > 1 and loop.norms == "batch" and torch.device(device).type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device)
        self._batches, self._validate, self._item_name = batches, validate, item_name
        # All processes have the first one's weights from here on.
        self._forward = self._distributed(_Step(self.model, loss))
        # Frozen weights are neither averaged nor copied: a language model has more of them than the rest of the model.
        self._frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        self.averaged = {
            name: value.detach() if name in self._frozen else value.detach().clone()
            for name, value in model.state_dict().items()
        }
        rate, decay, amsgrad = loop.learning_rate, loop.weight_decay, loop.amsgrad
        self.optimiser = torch.optim.AdamW(self._groups(), lr=rate, weight_decay=decay, amsgrad=amsgrad)
        self._late = self._asked = False
        self.state = _State()
        self._training_mode()
        if self.rank == 0:
            out.mkdir(parents=True, exist_ok=True)

    def _groups(self) -> list[dict[str, Any]]:
        prefix, rate = self.loop.encoder_prefix, self.loop.encoder_rate
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name.startswith(prefix)], "factor": rate},
            {"params": [p for name, p in named if not name.startswith(prefix)], "factor": 1.0},
        ]

    def _distributed(self, step: nn.Module) -> nn.Module:
        if self.loop.compile:
            require_compiler(self.device)
            for part in self.model.children():
                part.compile()
        if self.world == 1:
            return step
        ranks.join()
        # Published models hold weights that nothing uses, such as output convolutions of other scales.
        return nn.parallel.DistributedDataParallel(step, find_unused_parameters=True)

    def _training_mode(self) -> None:
        """Everything learns, but for normalisation layers that are frozen or kept."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                learns = module.weight is None or module.weight.requires_grad
                module.train(learns and self.loop.norms == "batch")

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
        self.averaged.update({name: saved["averaged"][name] for name in self.averaged if name not in self._frozen})
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
        """Write a checkpoint at once and completely, or not at all; only the first process does.

        Raises ``ValueError`` where it cannot be written (a full disk); the file that was there stays.
        """
        if self.rank > 0:
            return
        scratch = self.out / (name + ".part")
        content = {
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimiser": self.optimiser.state_dict(),
            "step": self.state.step,
            "best": self.state.best,
            "settings": self.settings,
        }
        try:
            torch.save(content, scratch)
            os.replace(scratch, self.out / name)
        except (OSError, RuntimeError) as error:  # torch's writer knows only the second
            scratch.unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{self.out / name}: step {self.state.step} could not be saved ({reason}); free some space on that "
                "disk: the checkpoint before it is whole, and the same command goes on from there"
            ) from error

    def run(self) -> bool:
        """Train until all steps are done (True), or the minutes are over or it is asked to stop (False, resumable).

        Raises ``ValueError`` at a loss or gradient that is not finite, naming the step and its items; the last good
        checkpoint stays.
        """
        started = saved = time.monotonic()
        loop = self.loop
        with ExitStack() as stack:
            curves = Curves(self.out, self.state.step, loop.steps, stack) if self.rank == 0 else None
            prefetch = Prefetch(self._parts, self.state.step, loop.steps, loop.workers)
            pace = Pace(prefetch)
            for parts in stack.enter_context(prefetch):
                over = self.rank == 0 and time.monotonic() - started > 60 * loop.minutes
                self._late = over or self._asked
                with pace:
                    terms = self.step(parts)
                done = self.state.step == loop.steps
                if curves is not None:
                    curves.add(self.state.step, terms, loop.rate(self.state.step))
                    curves.pace(self.state.step, pace, sum(len(part.get("items", "1")) for part in parts))
                if done or self.state.step % loop.validate_every == 0:
                    self._validated(curves)
                if done or self._late or time.monotonic() - saved > 60 * loop.checkpoint_minutes:
                    self.save(LAST)
                    saved = time.monotonic()
                if self._late and not done:
                    passed = (time.monotonic() - started) / 60
                    log.warning("stopped at step %d after %.0f minutes", self.state.step, passed)
                    return False
        return True

    def ask_to_stop(self) -> None:
        """Let ``run`` save and return after the step that comes, in all processes; for signal handlers."""
        self._asked = True

    def _parts(self, step: int) -> list[Batch]:
        """This process's parts of a step's batch."""
        each = self.loop.accumulate
        return [self._batches(step, self.rank * each + i, self.world * each) for i in range(each)]

    def step(self, parts: Sequence[Batch]) -> dict[str, float]:
        """One optimiser step from this process's parts of the batch; returns the loss terms and their sum."""
        loop, step = self.loop, self.state.step
        for group in self.optimiser.param_groups:
            group["lr"] = self.loop.rate(step) * group["factor"]
        # For what draws random numbers without a seed of its own, such as dropout.
        torch.manual_seed(hash((loop.seed, step, self.rank)) % 2**63)
        self.optimiser.zero_grad(set_to_none=True)
        found = [self._backward(part, step, i == len(parts) - 1, 1 / len(parts)) for i, part in enumerate(parts)]
        numbers = self._mean_over_ranks({name: sum(terms[name] for terms in found) for name in found[0]})
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), loop.clip or math.inf)
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if bad or not torch.isfinite(norm):
            suspects = [
                p for p, terms in zip(parts, found, strict=True) if not all(map(torch.isfinite, terms.values()))
            ]
            raise ValueError(self._not_finite(bad, suspects if bad else parts))
        self.optimiser.step()
        self.state.step += 1
        self._average()
        return {"total": sum(numbers.values()), **numbers}

    def _backward(self, batch: Batch, step: int, last: bool, share: float) -> dict[str, Tensor]:
        """Gradients of one part; the processes exchange them with the last one."""
        alone = not last and isinstance(self._forward, nn.parallel.DistributedDataParallel)
        kind = torch.device(self.device).type
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with self._forward.no_sync() if alone else nullcontext():
            with torch.autocast(kind, torch.bfloat16) if self.loop.precision == "bfloat16" else nullcontext():
                terms = self._forward(batch, step)
            (share * torch.stack(list(terms.values())).sum()).backward()
        return {name: share * value.detach() for name, value in terms.items()}

    def _mean_over_ranks(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Loss terms of the whole step; all processes also learn here that one of them is to stop."""
        values = torch.stack([*terms.values(), torch.tensor(float(self._late), device=self.device)])
        if self.world > 1:
            torch.distributed.all_reduce(values)
            self._late = bool(values[-1] > 0)
            values = values / self.world
        return dict(zip(terms, values[:-1].tolist(), strict=True))

    def _not_finite(self, bad: Sequence[str], parts: Sequence[Batch]) -> str:
        """What happened, to which items: those of the parts that are at fault, of all processes."""
        names = [self._item_name(int(item)) for part in parts for item in part.get("items", ())]
        names = [name for part in ranks.gather([names]) for name in part]
        rest = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        batch = f", its batch was {', '.join(names[:NAMED_AT_MOST])}{rest}" if names else ""
        what = f"loss is not finite at step {self.state.step} ({', '.join(bad)})"
        if not bad:
            what = f"gradient is not finite at step {self.state.step} though the loss is"
        return f"{what}{batch}; the last checkpoint is kept"

    def _average(self) -> None:
        # The decay rises with the step, so that the average forgets the random start.
        decay = min(self.loop.average, (1 + self.state.step) / (10 + self.state.step))
        for name, value in self.model.state_dict().items():
            if name in self._frozen:
                continue
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - decay)
            else:
                self.averaged[name].copy_(value)

    def _validated(self, curves: Curves | None) -> None:
        own = {name: value.clone() for name, value in self.model.state_dict().items() if name not in self._frozen}
        self.model.load_state_dict(self.averaged)
        self.model.eval()
        with torch.no_grad():
            score, numbers = self._validate(self.model)
        self._training_mode()
        self.model.load_state_dict(own, strict=False)
        if curves is not None:
            curves.validated(self.state.step, numbers)
        if score < self.state.best:
            self.state = replace(self.state, best=score)
            self.save(BEST)


def require_compiler(device: str) -> None:
    """Raises ``ValueError`` where torch cannot compile for ``device``, with what it says is missing."""
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except Exception as error:  # its compilers have exceptions of all kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"loop.compile: torch cannot compile for {device} here ({reason}), expected g++ for a CPU, Triton and gcc "
            "for a GPU; install it, or set compile to false"
        ) from error
