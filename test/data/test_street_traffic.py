"""How much moves on synthetic streets."""

from __future__ import annotations

from kyn_models.data.streets import StreetOptions, make_street


def test_traffic_says_how_much_moves() -> None:
    quiet, usual, busy = (
        sum(len(make_street(seed, StreetOptions(drive_m=12.0, traffic=traffic)).movers) for seed in range(12))
        for traffic in (0.0, 1.0, 8.0)
    )
    assert quiet == 0 and 0 < 2 * usual < busy
