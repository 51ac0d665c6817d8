"""The user's class names: any words, from a file or typed. No numpy, no torch."""

from __future__ import annotations

import os
from pathlib import Path

from kyn_models.palette import UNLABELLED

EXPECTED = "expected a file with one label a line, or words separated by commas"


def read_labels(given: str) -> tuple[str, ...]:
    """Class names, their number in the list is their label. given: path of a file with one a line, or ``a,b,c``.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the line (or word) that is empty or there twice, or a list
    that is longer than labels have numbers.
    """
    path = Path(given)
    if "," in given and not os.path.isfile(path):  # a long list of words is no name, which pathlib raises for
        return _checked([word.strip() for word in given.split(",")], "--labels", "word")
    if path.is_dir():
        raise FileNotFoundError(f"{given}: is a folder, {EXPECTED}")
    if not path.is_file():
        raise FileNotFoundError(f"{given}: no such file, {EXPECTED}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{given}: is no text, {EXPECTED}") from None
    return _checked([line.strip() for line in lines], given, "line")


def _checked(labels: list[str], source: str, kind: str) -> tuple[str, ...]:
    if not labels:
        raise ValueError(f"{source}: got an empty file, {EXPECTED}")
    seen: dict[str, int] = {}
    for number, label in enumerate(labels, start=1):
        if not label:
            raise ValueError(f"{source}, {kind} {number}: is empty, expected a label; remove it")
        key = " ".join(label.lower().split())
        if key in seen:
            raise ValueError(
                f"{source}, {kind} {number}: got {label!r}, which is {kind} {seen[key]} already, expected each label "
                "once (case does not count); remove one"
            )
        seen[key] = number
    if len(labels) > UNLABELLED:
        raise ValueError(f"{source}: got {len(labels)} labels, expected {UNLABELLED} at most; leave some out")
    return tuple(labels)
