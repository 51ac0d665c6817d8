"""Several processes at one job, as ``torchrun`` starts them: who is here, whose share is what, all results together.

Without ``torchrun`` there is one process and nothing here imports torch, so that a loop over a split reads the same in
both cases:

    rows = ranks.gather([score(frame) for frame in ranks.share(frames)])
    if ranks.first():
        write(rows)
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long a rank waits for the others: its share may end hours earlier. Of a rank that dies torchrun tells them."""


def here() -> tuple[int, int]:
    """Rank of this process, and how many there are: (0, 1) without ``torchrun``.

    Raises ``ValueError`` where RANK and WORLD_SIZE are in the environment and make no sense.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return 0, 1
    if not rank.isdecimal() or not world.isdecimal() or int(rank) >= int(world):
        raise ValueError(f"RANK={rank}, WORLD_SIZE={world}: expected a rank below the world size; use torchrun")
    return int(rank), int(world)


def first() -> bool:
    """True for the one process that writes and prints."""
    return here()[0] == 0


def quieten() -> None:
    """At the start of a command: only the first process warns, as all would say the same. Errors are everyone's."""
    if not first():
        logging.getLogger("kyn_models").setLevel(logging.ERROR)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


def device(kind: str) -> str:
    """``cpu``, or the GPU of this process among those of its machine: ``cuda:<LOCAL_RANK>``."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" and here()[1] > 1 else kind


def share(items: Sequence[T]) -> list[T]:
    """Every world-th item from this rank's on: shares differ by one item at most and cost about the same."""
    rank, world = here()
    return list(items[rank::world])


def gather(rows: Sequence[T]) -> list[T]:
    """All ranks' rows, on every rank, in the order of the items that ``share`` dealt (one row per item, picklable).

    Every rank must call it, as often as the others. Raises ``RuntimeError`` where a rank died meanwhile.
    """
    world = here()[1]
    if world == 1:
        return list(rows)
    import torch.distributed as dist

    join()
    parts: list[list[T]] = [[] for _ in range(world)]
    dist.all_gather_object(parts, list(rows))
    longest = max(len(part) for part in parts)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def total(values: Tensor) -> Tensor:
    """The sum of all ranks' tensors, with gradients: where every rank takes the same loss of it, the mean of the ranks'
    gradients is that of one process. Every rank must call it, as often as the others, forward and backward."""
    if here()[1] == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    join()
    summed: Tensor = all_reduce(values)
    return summed


def join() -> None:
    """Meet the other processes, once: over gloo between CPUs, nccl between GPUs. Nothing to do for one process."""
    import torch
    import torch.distributed as dist

    if here()[1] == 1 or dist.is_initialized():
        return
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store when it starts processes again: without a name of its own a new attempt reads
        # addresses of dead processes there. Machines count attempts differently, so only for one.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)


def leave() -> None:
    """End what ``join`` began, at the end of a command; harmless without it."""
    if here()[1] > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
