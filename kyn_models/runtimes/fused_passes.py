"""How the queries of a step are cut into passes: runs of a fused graph, which has one size. numpy only.

Where places attend to each other, a pass holds places of one set alone; else one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kyn_models.runtimes.queries import LabelQuery, PointQuery, Query, RayQuery
from kyn_models.types import Float32Array


class Share(NamedTuple):
    """Where the answer of a query lies among all of its kind."""

    kind: str
    start: int
    stop: int
    shape: tuple[int, ...]


class Chunk(NamedTuple):
    """What one pass computes of a kind. group: number of the set, the same for all chunks of a set."""

    start: int
    stop: int
    group: int


@dataclass(frozen=True)
class Asked:
    """All places of a kind, (M, 3) float32, and the chunk of each pass, in the order of the passes."""

    values: Float32Array
    chunks: tuple[Chunk, ...]

    def parts(self, number: int, share: Share) -> Iterator[tuple[int, int]]:
        """Start and stop of what pass ``number`` computes of a query's answer, if it does."""
        if number < len(self.chunks):
            start, stop = max(share.start, self.chunks[number].start), min(share.stop, self.chunks[number].stop)
            if start < stop:
                yield start, stop

    def sets_of_several_passes(self, shares: list[Share]) -> Iterator[list[int]]:
        """Numbers of the passes of every set of ``shares`` that takes more than one."""
        groups: dict[int, list[int]] = {}
        for number, chunk in enumerate(self.chunks):
            if any(share.start <= chunk.start < share.stop for share in shares):
                groups.setdefault(chunk.group, []).append(number)
        return (numbers for numbers in groups.values() if len(numbers) > 1)


def collect(kind: str, size: int, sets: bool, queries: Mapping[str, Query]) -> tuple[Asked, dict[str, Share]]:
    """The queries of one kind: "ray", "point" or "label". size: places of a pass; sets: they attend to each other."""
    values, shares, borders = [np.empty((0, 3), np.float32)], {}, [0]
    for name, query in queries.items():
        if _kind_of(query) == kind:
            places = query.directions if isinstance(query, RayQuery) else query.points
            start, count = borders[-1], places.size // 3
            values.append(places.reshape(-1, 3))
            shares[name] = Share(kind, start, start + count, places.shape[:-1])
            each = (query.points_per_call if isinstance(query, PointQuery) else None) or max(count, 1)
            borders += [min(start + each * number, start + count) for number in range(1, -(-count // each) + 1)]
    ends = borders if sets else [0, borders[-1]]
    chunks = [
        Chunk(low, min(low + size, stop), group)
        for group, (start, stop) in enumerate(zip(ends, ends[1:], strict=False))
        for low in range(start, stop, size)
    ]
    return Asked(np.concatenate(values), tuple(chunks)), shares


def _kind_of(query: Query) -> str:
    return {RayQuery: "ray", PointQuery: "point", LabelQuery: "label"}[type(query)]
