"""How commands over many frames say how many there are, which ones they left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def sentences(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """One line per reason with the number and the names of its frames.

    left_out: (``<drive>_<frame, 10 digits>``, reason) of each frame.
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out:
        reasons.setdefault(reason, []).append(name)
    return [f"{counted(len(names))} left out, {reason}: {named(names)}" for reason, names in reasons.items()]


def counted(number: int, what: str = "frame") -> str:
    """``1 frame``, ``0 frames``, ``24 frames``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """Every frame, by drive: ``drive 3, 5 to 8``."""
    frames: dict[str, list[list[int]]] = {}
    for name in sorted(names):
        drive, frame = name[:-11], int(name[-10:])
        spans = frames.setdefault(drive, [])
        if spans and spans[-1][1] == frame - 1:
            spans[-1][1] = frame
        else:
            spans.append([frame, frame])
    texts = (
        f"{drive} " + ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
        for drive, spans in frames.items()
    )
    return "; ".join(texts)
