"""Runs the engine builder in a process of its own and tells how far it is. Linux."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, NamedTuple

from kyn_models.runtimes.engine_build import PROGRESS, BuildFailed, Request

ROOT = Path(__file__).resolve().parents[2]
SAY_EVERY_S = 10.0


class Built(NamedTuple):
    """plan: the serialised engine. timing: the builder's measurements, for the next build."""

    plan: bytes
    timing: bytes


def build_in_process(
    request: Request, timing: bytes, say: Callable[[str], None], say_every_s: float = SAY_EVERY_S
) -> Built:
    """Build an engine. Raises ``BuildFailed`` with one sentence, also when the builder crashes or is killed.

    Engine and timing cache come back through memory: a full disk does not stop a robot from starting.
    """
    start = time.monotonic()
    try:
        plan_fd, timing_fd = os.memfd_create("kyn-engine"), os.memfd_create("kyn-timing")
        with os.fdopen(plan_fd, "rb") as plan, os.fdopen(timing_fd, "r+b", buffering=0) as measured:
            measured.write(timing)
            measured.seek(0)
            asked = json.dumps(asdict(request) | {"plan_fd": plan_fd, "timing_fd": timing_fd})
            # The package's own folder as working directory: nothing else is ever imported from where a node starts.
            process = subprocess.Popen(
                [sys.executable, "-m", "kyn_models.runtimes.engine_build", asked],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=(plan_fd, timing_fd),
            )
            with process:
                last = _follow(process, start, say, say_every_s)
                process.wait()
            if process.returncode != 0:
                raise BuildFailed(_death(process.returncode, last))
            plan.seek(0)
            measured.seek(0)
            built = Built(plan.read(), measured.read())
    except OSError as error:
        raise BuildFailed(f"the engine builder could not be started: {error}") from error
    say(f"built the engine in {time.monotonic() - start:.0f} s, {len(built.plan) / 1e6:.1f} MB")
    return built


def _follow(process: subprocess.Popen[str], start: float, say: Callable[[str], None], say_every_s: float) -> str:
    """Pass on progress until the output ends; returns the last line that was none."""
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), name="kyn engine builder", daemon=True).start()
    last, phase, due = "", "", start
    while True:
        now = time.monotonic()
        if now >= due:
            say(f"building the engine, {now - start:.0f} s so far{f', {phase}' if phase else ''}")
            due = now + say_every_s
        try:
            line = lines.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            continue
        if line is None:
            return last
        if line.startswith(PROGRESS):
            phase = line.removeprefix(PROGRESS).strip()
        elif line.strip():
            last = line.strip()


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _death(code: int, last: str) -> str:
    """One sentence about how the builder ended."""
    if code > 0:
        return f"the engine builder failed: {last or f'exit code {code}, without a reason'}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = ", often for lack of memory" if -code == signal.SIGKILL else ""
    return f"the engine builder was ended by {name}{why}{f' (it said last: {last})' if last else ''}"
