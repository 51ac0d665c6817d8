"""The perception node: one camera in, occupancy, points and depth out.

A lifecycle node. The executor's callbacks only sort messages into a mailbox of one; a thread of its own turns the
newest image into messages, so that diagnostics, services and shutdown never wait for the network.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from kyn_ros import convert, diagnostics, lifecycle
from kyn_ros.arrival import Arrival
from kyn_ros.convert import InputError
from kyn_ros.fates import DEACTIVATED, NEWER_IMAGE, RESTART, Fate
from kyn_ros.intake import Intake
from kyn_ros.mount import FixedMount, TfMount, make_mount
from kyn_ros.outputs import Outputs
from kyn_ros.params import PerceptionParameters, check_change, declare, read
from kyn_ros.perception import Perception, load_predictor, read_mask
from kyn_ros.poses import PoseSource, make_pose_source
from kyn_ros.publishers import Publishers, Source, with_source
from kyn_ros.worker import Cancelled, Worker, wait_for

STILL_LOADING_S = 5.0
END_WITHIN_S = 3.0
"""How long a running inference may delay a deactivation or the end of the process."""


class PerceptionNode(LifecycleNode):
    """stop: set when the process is asked to end, also while a model is loading."""

    def __init__(self, stop: threading.Event | None = None, **options: Any) -> None:
        super().__init__("perception_node", **options)
        self._stop = stop or threading.Event()
        declare(self, PerceptionParameters)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._frames = diagnostics.FrameLog()
        self._activity, self._refusal = "waiting to be configured", ""
        self._mount: FixedMount | TfMount | None = None
        self._poses: PoseSource | None = None
        self._outputs: Outputs | None = None
        self._perception: Perception | None = None
        self._worker: Worker[Arrival] | None = None
        self._left: list[threading.Thread] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, "reset", self._on_reset)

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and load the model; any fault of the set-up is refused with one sentence."""
        try:
            self._settings = parameters = read(self, PerceptionParameters)
            mask = read_mask(parameters.hood_mask)
            self._mount = mount = make_mount(
                self, parameters.camera_pose, parameters.grid.frame_id, parameters.tf_timeout_s
            )
            self._poses = make_pose_source(self, parameters)
            self._activity, self._loading_s = "loading the model", time.monotonic()
            self.get_logger().info("loading the model ...")
            predictor = wait_for(
                lambda: load_predictor(parameters, mount, self.get_logger().warning, self.get_logger().info),
                self._while_loading,
                self._left.append,
            )
        except (ValueError, OSError, ImportError) as error:
            return self._refuse(str(error))
        if predictor is None:
            return self._refuse("stopped while the model was loading")
        self._refusal, self._activity = "", "configured, not active"
        self._outputs = Outputs(self, parameters)
        name = self.get_fully_qualified_name()
        self._perception = Perception(
            predictor, self._mount, self._poses, self._outputs, parameters, mask, self.get_logger(), name, self._drop
        )
        self.get_logger().info(
            f"model {predictor.artifact.name}, runtime {predictor.runtime_name} {predictor.precision}, "
            f"mount from {self._mount.source}"
        )
        if self._outputs.note:
            self.get_logger().warning(self._outputs.note)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; refused while the image from before a deactivation is still in the network."""
        if self._left_running():
            # Two threads in one predictor would mix their images.
            self.get_logger().error(
                f"not activated: the image from before the deactivation is still at work after {END_WITHIN_S:g} s, "
                "expected it to be done by now; activate again later"
            )
            return TransitionCallbackReturn.FAILURE
        parameters, qos = self._settings, self._settings.qos
        self._intake = Intake(parameters, self._drop, self._restart)
        self._worker = Worker(self._answer)
        self._frames.started()
        raw = parameters.image_transport == "raw"
        image_type, topic = (Image, "image") if raw else (CompressedImage, "image/compressed")
        self._inputs = [
            self.create_subscription(
                CameraInfo, "camera_info", with_source(self._on_info), qos.camera_info.profile(10)
            ),
            self.create_subscription(image_type, topic, with_source(self._on_image), qos.image.profile()),
        ]
        info_topic, self._image_topic = (subscription.topic_name for subscription in self._inputs)
        self._sources = Publishers(self, self._image_topic, info_topic)
        self._activity = "active"
        self.get_logger().info(f"active, waiting for images on {self._image_topic}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening, and wait a moment for the image at work; from here on nothing is published."""
        self._release_inputs()
        self._activity = "configured, not active"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model, so that parameters can be changed."""
        self._release_all()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from whichever state."""
        self._release_all()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an exception in a transition: back to unconfigured."""
        self._release_all()
        self._refusal = "a transition failed, see the log"
        return TransitionCallbackReturn.SUCCESS

    def finish(self) -> bool:
        """End everything; False if a thread is still inside the network, a model or constants that are built."""
        self._release_inputs()
        self._forget_constants()
        return not self._left_running()

    def _forget_constants(self) -> None:
        if self._perception is not None and (thread := self._perception.close(END_WITHIN_S)) is not None:
            self._left.append(thread)

    def _left_running(self) -> bool:
        self._left = [thread for thread in self._left if thread.is_alive()]
        return bool(self._left)

    def _release_inputs(self) -> None:
        if self._worker is None:
            return
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._forget_images(DEACTIVATED)
        if not self._worker.stop(END_WITHIN_S):
            self._left.append(self._worker.thread)
        if self._perception is not None:
            self._perception.restart("deactivation", DEACTIVATED)
        self._worker = None

    def _forget_images(self, fate: Fate) -> None:
        """Drop those that wait for their CameraInfo, or for the inference thread."""
        for _ in range(self._intake.drop_images()):
            self._drop(*fate)
        if self._worker is not None and self._perception is not None and (arrival := self._worker.clear()) is not None:
            self._perception.passed_over(arrival, fate)

    def _release_all(self) -> None:
        self._release_inputs()
        if self._outputs is not None:
            self._outputs.close()
        if self._mount is not None:
            self._mount.close()
        if self._poses is not None:
            self._poses.close()
        self._forget_constants()
        self._perception = self._outputs = self._mount = self._poses = None
        self._activity = "waiting to be configured"

    def _refuse(self, sentence: str) -> TransitionCallbackReturn:
        self._release_all()
        self._refusal = sentence
        self.get_logger().error(f"not configured: {sentence}")
        return TransitionCallbackReturn.FAILURE

    def _while_loading(self) -> bool:
        if (waited := time.monotonic() - self._loading_s) > STILL_LOADING_S:
            self.get_logger().info(f"still loading the model, {waited:.0f} s now", throttle_duration_sec=5.0)
        self._publish_diagnostics()
        return not self._stop.is_set()

    # -- messages in ---------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage, source: Source) -> None:
        stamp = convert.stamp_ns(message.header.stamp)
        self._frames.image_arrived((self.get_clock().now().nanoseconds - stamp) * 1e-9)
        verdict = self._sources.image(source)
        if verdict.restart:
            self._restart(verdict.restart, "change of publisher")
        if verdict.chosen:
            self._intake.begin_with(self._sources.latest_infos())
        if verdict.reason:
            self._drop(verdict.reason, verdict.sentence)
        else:
            self._take(self._intake.image(message))

    def _on_info(self, message: CameraInfo, source: Source) -> None:
        self._frames.info_arrived()
        if self._sources.info(message, source):
            self._take(self._intake.info(message))

    def _take(self, pair: tuple[Any, CameraInfo] | None) -> None:
        """Hand a complete pair to the inference thread, which works on the newest one only."""
        if pair is None or self._worker is None or self._perception is None:
            return
        arrival = Arrival(*pair, time.monotonic())
        # Not every image is answered, but each may be a neighbour.
        self._perception.arrived(arrival)
        if self._intake.too_soon(arrival.stamp_ns):
            self._perception.passed_over(arrival, Fate("max_rate_hz", "image: above max_rate_hz"))
        elif (replaced := self._worker.put(arrival)) is not None:
            self._perception.passed_over(replaced, NEWER_IMAGE)

    def _answer(self, arrival: Arrival, cancelled: threading.Event) -> None:
        """One image, in the inference thread."""
        perception = self._perception
        assert perception is not None
        try:
            stages_ms = perception.process(arrival, cancelled)
            if stages_ms is not None:
                self._frames.answered(stages_ms)
        except Cancelled:
            perception.given_up(DEACTIVATED)
        except InputError as error:
            perception.given_up(Fate(error.reason, str(error)))
        except Exception as error:  # whatever a runtime raises, the next image gets its chance
            if cancelled.is_set():
                perception.given_up(DEACTIVATED)  # the publishers may be gone
                return
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
            perception.given_up(Fate("inference", f"inference failed: {error}"))

    def _drop(self, reason: str, sentence: str) -> None:
        if self._frames.dropped(reason, sentence):
            self.get_logger().warning(f"dropped: {sentence}", throttle_duration_sec=5.0)

    def _restart(self, sentence: str, cause: str, jump_ns: int = 0) -> None:
        """Forget the images before. jump_ns: how far their stamps jumped."""
        self._frames.restarted()
        self._forget_images(RESTART)
        if self._perception is not None:
            self._perception.restart(cause)
        if self._poses is not None and jump_ns:
            self._poses.images_restarted(back=jump_ns < 0)
        self.get_logger().warning(f"{sentence}, starting afresh", throttle_duration_sec=5.0)

    # -- services, parameters, diagnostics -----------------------------------------------------------------------------

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._worker is None:
            response.success, response.message = False, "not active, nothing to reset"
            return response
        self._restart("reset was called", "reset")
        self._intake.forget()
        if self._poses is not None:
            self._poses.reset()
        response.success, response.message = True, "starting afresh with the next image"
        return response

    def _on_set_parameters(self, changed: Sequence[Parameter]) -> SetParametersResult:
        refusal = check_change(self, PerceptionParameters, changed, in_use=self._perception is not None)
        if not refusal and self._perception is not None and any(item.name.startswith("grid.") for item in changed):
            try:
                self._settings = read(self, PerceptionParameters, tuple(changed))
                self._perception.set_grid(self._settings.grid)
            except ValueError as error:
                refusal = str(error)
        return SetParametersResult(successful=not refusal, reason=refusal)

    def _publish_diagnostics(self) -> None:
        name = self.get_fully_qualified_name()
        predictor = self._perception.predictor if self._perception is not None else None
        statuses = [diagnostics.model_status(f"{name}: model", self._activity, self._refusal, predictor)]
        if self._worker is not None:
            timeout_s = self._settings.input_timeout_s
            statuses.append(self._frames.status(f"{name}: input", self._image_topic, timeout_s))
            if self._frames.lost_images():
                self.get_logger().warning(diagnostics.FAST_DDS_ADVICE, throttle_duration_sec=10.0)
        if self._perception is not None and self._outputs is not None:
            statuses += self._outputs.statuses(name) + self._perception.statuses()
        if self._poses is not None:
            statuses.append(self._poses.status(f"{name}: poses"))
        self._diagnostics.publish(diagnostics.array_message(self.get_clock().now().to_msg(), statuses))


def main(argv: Sequence[str] | None = None, must_start: bool = False) -> int:
    """Run the node until SIGINT or SIGTERM. ``argv`` without the program's name (default: the process's).

    must_start: exit code 2 where autostart is refused; else the node stays, to be configured again once it is mended.
    """
    # Threads of the compiled loops sleep between images: spinning, they take the cores from whoever else works here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        stop = lifecycle.start_ros(argv)
    except ValueError as error:
        print(f"perception_node: {error}", file=sys.stderr)
        return 2
    node = PerceptionNode(stop)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    code = None
    try:
        code = _started(node, must_start)
        while not stop.is_set() and code is None:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    lifecycle.end_ros(node, executor, ended=node.finish())
    return 0 if stop.is_set() else code or 0


def _started(node: PerceptionNode, must_start: bool) -> int | None:
    """Do what the parameters say about the start: the exit code if the process is to end already."""
    if node.get_parameter("build_only").value:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return 1
        node.get_logger().info("build_only is set: the model is ready, ending")
        return 0
    if node.get_parameter("autostart").value and not lifecycle.autostart(node) and must_start:
        return 2
    return None


if __name__ == "__main__":
    sys.exit(main())
