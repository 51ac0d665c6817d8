"""Everything the perception node publishes about the world; work is done only for what somebody subscribes to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from kyn_models import occupancy, views
from kyn_models.occupancy import GridOptions
from kyn_models.types import Prediction
from kyn_ros import convert, diagnostics
from kyn_ros.fusion import Place, make_fusion
from kyn_ros.params import PerceptionParameters, TopicQos
from kyn_ros.rivals import rivals
from kyn_ros.worker import check

try:
    from kyn.msg import OccupancyVolume
except ImportError:  # built by colcon, and by pip where the interface generators are installed
    OccupancyVolume = None

NO_VOLUME_MESSAGE = (
    "occupancy_volume is not published: kyn.msg is not built for this Python; "
    "build with colcon, or install kyn where the ROS 2 interface generators are"
)


@dataclass(frozen=True)
class Output:
    """One topic: its message, what of a prediction it is made from, and how."""

    topic: str
    message: type
    needs: str
    qos: TopicQos
    build: Callable[[Prediction, Header], Any]
    in_camera_frame: bool = False


class Outputs:
    """The publishers of a lifecycle node. Messages carry the stamp of the image they come from."""

    def __init__(self, node: LifecycleNode, parameters: PerceptionParameters) -> None:
        self._grid_frame = parameters.grid.frame_id
        self._fusion = make_fusion(parameters)
        self._options = parameters.grid.options()
        self._outputs = self._table(parameters)
        self._publishers = {
            output.topic: node.create_lifecycle_publisher(output.message, output.topic, output.qos.profile())
            for output in self._outputs
        }
        self._node = node

    def _table(self, parameters: PerceptionParameters) -> list[Output]:
        qos = parameters.qos
        table = [
            Output("occupancy_grid", OccupancyGrid, "grid", qos.occupancy_grid, self._grid),
            Output("occupied_voxels", PointCloud2, "volume", qos.clouds, self._voxels),
            Output("obstacle_points", PointCloud2, "volume", qos.clouds, self._obstacles),
            Output("clearing_points", PointCloud2, "depth", qos.clouds, self._clearing),
            Output("points", PointCloud2, "depth", qos.clouds, self._points),
            Output("depth/image_rect", Image, "depth", qos.depth, self._depth, in_camera_frame=True),
            Output("depth/camera_info", CameraInfo, "", qos.depth, self._camera_info, in_camera_frame=True),
            Output("depth/colorized", Image, "depth", qos.depth, self._colorized, in_camera_frame=True),
        ]
        if self._fusion is not None:
            table.append(Output("occupancy_grid_fused", OccupancyGrid, "grid", qos.occupancy_grid, self._fused))
        if OccupancyVolume is not None:
            table.append(Output("occupancy_volume", OccupancyVolume, "volume", qos.occupancy_volume, self._volume))
        return table

    @property
    def note(self) -> str:
        """What is missing here, in a sentence; empty if nothing is."""
        return "" if OccupancyVolume is not None else NO_VOLUME_MESSAGE

    @property
    def fuses(self) -> bool:
        """True where the grids of all images are kept together."""
        return self._fusion is not None

    def statuses(self, name: str) -> list[DiagnosticStatus]:
        """Of the topics, and of the rolling grid where there is one; name: the node's."""
        rivalry = rivals(self._node, [publisher.topic_name for publisher in self._publishers.values()])
        if rivalry:
            self._node.get_logger().warning(rivalry, throttle_duration_sec=10.0)
        made = [output.topic for output in self.wanted()]
        topics = diagnostics.outputs_status(f"{name}: outputs", made, rivalry, self.note)
        return [topics] if self._fusion is None else [topics, self._fusion.status(f"{name}: fusion")]

    def wanted(self) -> list[Output]:
        """The outputs that somebody subscribes to, and the grid."""
        return [
            output
            for output in self._outputs
            if output.topic == "occupancy_grid" or self._publishers[output.topic].get_subscription_count() > 0
        ]

    @staticmethod
    def needs(wanted: Iterable[Output]) -> frozenset[str]:
        """What a prediction must hold for these outputs."""
        return frozenset(output.needs for output in wanted if output.needs)

    def publish(
        self,
        wanted: Iterable[Output],
        prediction: Prediction,
        grid: GridOptions,
        stamp: Time,
        camera_frame: str,
        cancelled: threading.Event,
        place: Place | None = None,
    ) -> None:
        """Publish ``wanted`` outputs (as ``wanted()`` gave them before the prediction was made).

        grid: the rule with which the prediction's grid was made. place: where the vehicle was, needed where ``fuses``
        is true: the rolling grid learns from every prediction.

        Raises ``Cancelled`` before the first one that ``cancelled`` forbids, ``InputError`` for an impossible place.
        """
        self._options = grid
        if self._fusion is not None:
            assert place is not None
            check(cancelled)
            self._fusion.add(prediction, place)
        for output in wanted:
            check(cancelled)
            frame = camera_frame if output.in_camera_frame else self._grid_frame
            message = output.build(prediction, Header(stamp=stamp, frame_id=frame))
            check(cancelled)
            self._publishers[output.topic].publish(message)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _grid(self, prediction: Prediction, header: Header) -> OccupancyGrid:
        assert prediction.grid is not None
        return convert.grid_message(header, prediction.grid, prediction.spec)

    def _fused(self, prediction: Prediction, header: Header) -> OccupancyGrid:
        assert self._fusion is not None
        return self._fusion.message(header, self._options)

    def _volume(self, prediction: Prediction, header: Header) -> Any:
        assert prediction.volume is not None
        return convert.volume_message(
            OccupancyVolume, header, prediction.volume, prediction.spec, prediction.labels, prediction.label_names
        )

    def _voxels(self, prediction: Prediction, header: Header) -> PointCloud2:
        assert prediction.volume is not None
        spec = prediction.spec
        centres, index = occupancy.occupied_cells(prediction.volume, spec, self._options.occupied_above)
        if prediction.labels is None:
            # One colour per layer: cells come layer by layer.
            heights = spec.axes()[0]
            ends = np.searchsorted(index, np.arange(len(heights) + 1) * (spec.shape[1] * spec.shape[2]))
            colours = views.height_colours(heights, *spec.z_m).repeat(np.diff(ends), axis=0)
        else:
            colours = views.cell_colours(index, spec, prediction.labels, prediction.label_names)
        return convert.cloud_message(header, centres, colours)

    def _obstacles(self, prediction: Prediction, header: Header) -> PointCloud2:
        assert prediction.volume is not None
        spec, labels, names = prediction.spec, prediction.labels, prediction.label_names
        points, index = occupancy.obstacle_cells(prediction.volume, spec, self._options)
        # Coloured by class only: their height says nothing beside x, y, z.
        colours = None if labels is None else views.cell_colours(index, spec, labels, names)
        return convert.cloud_message(header, points, colours)

    def _clearing(self, prediction: Prediction, header: Header) -> PointCloud2:
        points = occupancy.clearing_points(prediction, self._options, range_m=prediction.spec.x_m[1])
        return convert.cloud_message(header, points)

    def _points(self, prediction: Prediction, header: Header) -> PointCloud2:
        return convert.cloud_message(header, *occupancy.surface_points(prediction))

    def _depth(self, prediction: Prediction, header: Header) -> Image:
        assert prediction.depth_m is not None
        return convert.image_message(header, prediction.depth_m)

    def _camera_info(self, prediction: Prediction, header: Header) -> CameraInfo:
        return convert.camera_info_message(header, prediction.intrinsics)

    def _colorized(self, prediction: Prediction, header: Header) -> Image:
        assert prediction.depth_m is not None
        return convert.image_message(header, views.colourise_depth(prediction.depth_m))
