"""From process start to a clean end: signals, autostart, the way out."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence

import rclpy
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


def start_ros(argv: Sequence[str] | None) -> threading.Event:
    """``rclpy.init`` of this process, and an event that SIGINT and SIGTERM set.

    The signals do nothing else, so a second one (a terminal and a launch file both send it) changes nothing.
    argv: without the program's name, None takes the process's. Raises ``ValueError`` for arguments that ROS refuses.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # Imported late: the class is private to rclpy.
    from rclpy.impl.implementation_singleton import rclpy_implementation

    arguments = None if argv is None else [sys.argv[0], *argv]
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except rclpy_implementation.RCLError as error:
        raise ValueError(f"ROS arguments: {str(error).splitlines()[0]}") from error
    return stop


def autostart(node: LifecycleNode) -> bool:
    """Configure and activate; False if the node refused (it has said why, and can be configured again)."""
    if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
        return False
    return node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def end_ros(node: Node, executor: Executor, ended: bool) -> None:
    """Tear down; with ``ended`` False the process ends here and now.

    A thread is then still inside a library that cannot be interrupted: waiting for it would take too long, and the
    interpreter's own end under it may crash.
    """
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    if not ended:
        # rclpy ends a state machine only with its node object, which the busy thread keeps alive; the participant
        # lives as long, and its shared memory would stay behind.
        vars(node).pop("_state_machine", None)
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
