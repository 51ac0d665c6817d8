"""Node parameters: frozen dataclasses, declared with description and range, read back checked.

A parameter's name is the path of its field (``grid.resolution_m``). The dataclass is the only check, at start-up, at
configure and at ``ros2 param set`` alike, and it says what is wrong in one sentence. Numbers may be written as
integers (``max_rate_hz: 5``).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from kyn_models.config import from_mapping
from kyn_models.frame_window import Neighbours, WindowOptions
from kyn_models.occupancy import GridMode, GridOptions
from kyn_models.rolling_grid import RollingOptions
from kyn_models.runtimes.queries import Precision
from kyn_models.types import VoxelGridSpec

T = TypeVar("T")
Reliability = Literal["best_effort", "reliable"]
Durability = Literal["volatile", "transient_local"]
PoseSourceName = Literal["none", "odom", "pose", "tf"]
NOT_OURS = ("use_sim_time", "qos_overrides.", "start_type_description_service")
"""Parameters that rclpy itself declares."""


def parameter(default: Any, text: str, low: float | None = None, high: float | None = None, live: bool = False) -> Any:
    """A field with a description and, for numbers, an inclusive range. live: it may change while the node works."""
    return field(default=default, metadata={"text": text, "range": None if low is None else (low, high), "live": live})


def group(cls: type, **defaults: Any) -> Any:
    """A field that is a group of parameters."""
    return field(default_factory=lambda: cls(**defaults))


def check_ranges(parameters: Any) -> None:
    """Raise ``ValueError`` for the first number of a dataclass that is not finite or outside its field's range."""
    for item in dataclasses.fields(parameters):
        value, bounds = getattr(parameters, item.name), item.metadata.get("range")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{item.name}: got {number}, expected a finite number")
            if bounds and not bounds[0] <= number <= bounds[1]:
                raise ValueError(f"{item.name}: got {number}, expected {bounds[0]} to {bounds[1]}")


@dataclass(frozen=True)
class GridParameters:
    """The voxel grid and the 2-D grid below it."""

    frame_id: str = parameter("base_link", "frame of all grids and clouds: x forward, y left, z up, z = 0 on the road")
    x_m: tuple[float, float] = parameter(
        (0.0, 50.0), "[from, to] forward, metres, multiples of resolution_m", live=True
    )
    y_m: tuple[float, float] = parameter((-10.0, 10.0), "[from, to] left, metres, multiples of resolution_m", live=True)
    z_m: tuple[float, float] = parameter((-0.4, 2.8), "[from, to] up, metres, multiples of resolution_m", live=True)
    resolution_m: float = parameter(0.2, "edge of a cell, metres", 0.02, 5.0, live=True)
    min_height_m: float = parameter(
        0.3, "lowest height of an obstacle in the 2-D grid, metres", -10.0, 100.0, live=True
    )
    max_height_m: float = parameter(
        2.0, "greatest height of an obstacle in the 2-D grid, metres", -10.0, 100.0, live=True
    )
    occupied_above: float = parameter(0.65, "a cell above this probability is occupied", 0.0, 1.0, live=True)
    free_below: float = parameter(0.35, "a column with every cell below this probability is free", 0.0, 1.0, live=True)
    mode: GridMode = parameter("trinary", "trinary: 100, 0, -1; probability: 0 to 100, and -1", live=True)

    def __post_init__(self) -> None:
        if not self.frame_id:
            raise ValueError("grid.frame_id: got an empty name, expected the vehicle's frame, such as base_link")
        try:
            check_ranges(self)
        except ValueError as error:
            raise ValueError(f"grid.{error}") from error
        self.spec()
        self.options()

    def spec(self) -> VoxelGridSpec:
        """The voxel grid."""
        return VoxelGridSpec(self.x_m, self.y_m, self.z_m, self.resolution_m)

    def options(self) -> GridOptions:
        """The rule for the 2-D grid."""
        return GridOptions(self.min_height_m, self.max_height_m, self.occupied_above, self.free_below, self.mode)


@dataclass(frozen=True)
class PoseParameters:
    """What is a pose for an image, and what is none."""

    gap_s: float = parameter(0.5, "between poses further apart than this none is interpolated, seconds", 0.001, 10.0)
    max_speed_mps: float = parameter(
        60.0, "poses further apart than this speed allows are a jump, which starts afresh", 0.1, 1000.0
    )
    fixed_frame: str = parameter("odom", "the frame that stands still, for pose_source tf")

    def __post_init__(self) -> None:
        if not self.fixed_frame:
            raise ValueError("poses.fixed_frame: got an empty name, expected a frame that stands still, such as odom")
        try:
            check_ranges(self)
        except ValueError as error:
            raise ValueError(f"poses.{error}") from error


@dataclass(frozen=True)
class FrameParameters:
    """Which frames a model of several frames is asked about together."""

    neighbours: Neighbours = parameter(
        "past", "past: two frames before the newest one; centred: one before, one after, late by one chosen frame"
    )
    spacing_m: float = parameter(0.7, "least distance the camera moves between chosen frames, metres", 0.01, 100.0)
    max_delay_s: float = parameter(0.5, "centred: the longest wait for the frame after, seconds", 0.01, 10.0)
    max_age_s: float = parameter(2.0, "a neighbour is at most this far in time, seconds", 0.01, 60.0)
    max_baseline_m: float = parameter(8.0, "a neighbour is at most this far away, metres", 0.01, 100.0)
    max_turn_deg: float = parameter(30.0, "a neighbour looks at most this far to another side, degrees", 0.1, 180.0)

    def __post_init__(self) -> None:
        try:
            check_ranges(self)
            self.options(1.0)
        except ValueError as error:
            raise ValueError(f"frames.{error}") from error

    def options(self, max_speed_mps: float) -> WindowOptions:
        """For the window; max_speed_mps: what is faster is a jump of the poses."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return WindowOptions(**values, max_speed_mps=max_speed_mps)


@dataclass(frozen=True)
class FusionParameters:
    """The rolling grid around the vehicle: what the grids of all images say together."""

    enabled: bool = parameter(True, "make occupancy_grid_fused where pose_source is not none")
    size_m: float = parameter(100.0, "edge of the square around the vehicle, metres", 0.1, 1000.0)
    hit: float = parameter(0.75, "probability of occupied after one occupied reading", 0.5, 1.0)
    miss: float = parameter(0.4, "probability of occupied after one free reading", 0.0, 0.5)
    limits: tuple[float, float] = parameter((0.2, 0.95), "least and greatest probability a cell can reach", 0.0, 1.0)
    forget_s: float = parameter(5.0, "in this time half of what is known is forgotten; 0: never", 0.0, 1e6)

    def __post_init__(self) -> None:
        try:
            check_ranges(self)
        except ValueError as error:
            raise ValueError(f"fusion.{error}") from error
        self.options()

    def options(self) -> RollingOptions:
        """The rule for the rolling grid."""
        return RollingOptions(self.size_m, self.hit, self.miss, self.limits, self.forget_s)


@dataclass(frozen=True)
class TopicQos:
    """Quality of service of one topic."""

    reliability: Reliability = parameter("reliable", "best_effort or reliable")
    durability: Durability = parameter("volatile", "volatile, or transient_local: late subscribers get the last one")

    def profile(self, depth: int = 1) -> QoSProfile:
        """The profile: keep the last ``depth``."""
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
            reliability=ReliabilityPolicy[self.reliability.upper()],
            durability=DurabilityPolicy[self.durability.upper()],
        )


@dataclass(frozen=True)
class QosParameters:
    """Quality of service: inputs take what any driver offers, the grid is what Nav2 and RViz expect."""

    image: TopicQos = group(TopicQos, reliability="best_effort")
    camera_info: TopicQos = group(TopicQos, reliability="best_effort")
    poses: TopicQos = group(TopicQos, reliability="best_effort")
    occupancy_grid: TopicQos = group(TopicQos, durability="transient_local")
    occupancy_volume: TopicQos = group(TopicQos)
    clouds: TopicQos = group(TopicQos)
    depth: TopicQos = group(TopicQos)


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node."""

    model: str = parameter("", "folder of the model artifact; empty: the model that comes with kyn")
    runtime: str = parameter("auto", "auto, or the name of a runtime (see `kyn doctor`)")
    precision: Precision = parameter("auto", "of convolutions: auto, float32, float16, bfloat16")
    autostart: bool = parameter(True, "configure and activate at start, without a lifecycle manager")
    build_only: bool = parameter(False, "load the model, with TensorRT build its engine, and end the process")
    camera_pose: tuple[float, ...] | None = parameter(
        None, "[x, y, z, roll, pitch, yaw] of the OPTICAL frame in grid.frame_id, metres and radians; not set: from TF"
    )
    tf_timeout_s: float = parameter(5.0, "how long a frame waits for the mount from TF, seconds", 0.0, 60.0)
    pose_source: PoseSourceName = parameter(
        "none", "where vehicle poses come from: none, odom, pose, tf; models of one image need none"
    )
    poses: PoseParameters = group(PoseParameters)
    frames: FrameParameters = group(FrameParameters)
    image_transport: Literal["raw", "compressed"] = parameter("raw", "raw: `image`; compressed: `image/compressed`")
    input_rectified: bool = parameter(False, "true: images are rectified, use P of camera_info and ignore D")
    pairing_slop_s: float = parameter(0.01, "image and camera_info belong together within this time, seconds", 0.0, 1.0)
    input_timeout_s: float = parameter(2.0, "without an image for this time the input is called stale", 0.1, 60.0)
    max_rate_hz: float = parameter(0.0, "most images answered per second of their stamps; 0: all", 0.0, 1000.0)
    metric_scale: float = parameter(1.0, "multiplies all distances", 0.01, 100.0)
    hood_mask: str = parameter("", "PNG of the image's size, non-zero where the vehicle itself is seen; empty: none")
    depth_rays: tuple[int, int] = parameter((96, 320), "[rows, columns] of rendered depth rays", 1, 4096)
    grid: GridParameters = group(GridParameters)
    fusion: FusionParameters = group(FusionParameters)
    qos: QosParameters = group(QosParameters)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.camera_pose is not None and len(self.camera_pose) != 6:
            raise ValueError(
                f"camera_pose: got {len(self.camera_pose)} numbers, expected 6: [x, y, z, roll, pitch, yaw] "
                "of the optical frame in metres and radians"
            )
        # Without poses nothing is fused, and grids that no fused one could follow are as good as any.
        if self.fusion.enabled and self.pose_source != "none":
            self.fusion.options().side(self.grid.resolution_m)
            self.fusion.options().check_rule(self.grid.options())


def flatten(cls: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Name and field of every parameter of a dataclass, groups resolved."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from flatten(typing.cast(type, hints[item.name]), f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item


def declare(node: Node, cls: type) -> None:
    """Declare every parameter of ``cls`` on the node, with the values of YAML and the command line.

    A value out of range is taken, so that ``read`` can refuse it with a sentence instead of a traceback at start.
    """
    defaults = _flat_values(cls())
    for name, item in flatten(cls):
        value = defaults[name]
        default = list(value) if isinstance(value, tuple) else value
        try:
            node.declare_parameter(name, default, _descriptor(item))
        except InvalidParameterValueException:
            unbounded = ParameterDescriptor(description=item.metadata["text"], dynamic_typing=True)
            node.declare_parameter(name, default, unbounded)


def read(node: Node, cls: type[T], changed: tuple[Parameter, ...] = ()) -> T:
    """The node's parameters, with ``changed`` ones in their place, as a checked dataclass.

    Raises ``ValueError`` with one sentence that names the node and the parameter, also for a parameter in YAML or on
    the command line that does not exist.
    """
    names = [name for name, _ in flatten(cls)]
    values = {name: node.get_parameter(name).value for name in names}
    values.update({item.name: item.value for item in changed if item.name in values})
    # rclpy offers no public way to see which names were given from outside.
    given = getattr(node, "_parameter_overrides", {})
    unknown = [name for name in given if name not in values and not name.startswith(NOT_OURS)]
    if unknown:
        raise ValueError(f"{node.get_name()}: unknown parameter {unknown[0]}, expected one of {', '.join(names)}")
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = nested
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value if value is None or isinstance(value, (str, bool, int, float)) else list(value)
    return from_mapping(cls, nested, node.get_name())


def check_change(node: Node, cls: type, changed: Sequence[Parameter], in_use: bool) -> str:
    """Why a change of parameters is refused; empty if it is not.

    in_use: the node works with the old values; then only fields that are marked as live may change.
    """
    live = {name: item.metadata.get("live", False) for name, item in flatten(cls)}
    fixed = [item.name for item in changed if not live.get(item.name, True)]
    if fixed and in_use:
        return f"{fixed[0]}: takes effect at configure; deactivate and clean up the node first"
    try:
        read(node, cls)
    except ValueError:
        # Already refused for another parameter: accept, so that several can be mended one by one.
        return ""
    try:
        read(node, cls, tuple(changed))
    except ValueError as error:
        return str(error)
    return ""


def _flat_values(parameters: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in dataclasses.fields(parameters):
        value = getattr(parameters, item.name)
        if dataclasses.is_dataclass(value):
            values |= _flat_values(value, f"{prefix}{item.name}.")
        else:
            values[prefix + item.name] = value
    return values


def _descriptor(item: dataclasses.Field) -> ParameterDescriptor:
    # Dynamic typing, because the dataclass checks types itself and takes 5 where 5.0 is meant.
    descriptor = ParameterDescriptor(description=item.metadata["text"], dynamic_typing=True)
    bounds: Mapping | tuple | None = item.metadata.get("range")
    if bounds and isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1])]
    elif bounds and isinstance(item.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=1)]
    return descriptor
