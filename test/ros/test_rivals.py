"""Two nodes that publish the same topics, or have the same name: both say so, and who it is."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import SECOND
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from processes import Process, parameters
from rclpy.topic_endpoint_info import TopicEndpointInfo

from kyn_ros.diagnostics import node_name

ADVICE = "stop the others, or give each node a namespace (-r __ns:=/NAME)"


def test_another_publisher_of_the_grid_is_a_warning_that_names_it(bench) -> None:
    one = bench()
    one.wait_for_status("outputs", DiagnosticStatus.OK)
    other = one.ros.node("other_grid")
    publisher = other.create_publisher(OccupancyGrid, "occupancy_grid", 1)
    status = one.wait_for_status("outputs", DiagnosticStatus.WARN, "occupancy_grid")
    assert status.message == (
        "outputs: got 2 publishers on /occupancy_grid (/other_grid, /perception_node), expected /perception_node "
        f"alone; {ADVICE}"
    )
    assert one.ask(128, SECOND), "images are answered all the same"
    other.destroy_publisher(publisher)
    one.wait_for_status("outputs", DiagnosticStatus.OK)


def test_another_node_of_the_same_name_is_a_warning(bench) -> None:
    one = bench()
    one.ros.node("perception_node")
    status = one.wait_for_status("outputs", DiagnosticStatus.WARN)
    assert status.message.startswith("node: got 2 nodes named /perception_node, expected one") and ADVICE in (
        status.message
    )


def test_a_second_node_process_is_named_by_both_unless_it_has_a_namespace(bench, model) -> None:
    one = bench()
    small = {"model": model, "runtime": "onnxruntime", "camera_pose": "[0.0, 0.0, 1.5, -1.6, 0.0, -1.6]"}
    arguments = parameters(**small, grid__resolution_m=0.4, depth_rays="[12, 40]")
    with Process("kyn_ros.perception_node", *arguments, "-r", "__ns:=/front") as second:
        second.wait_for_text("active, waiting for images")
        assert one.ros.spin_until(lambda: one.peer.count_publishers("/front/occupancy_grid"))
        assert one.ask_status("outputs").level == DiagnosticStatus.OK
    with Process("kyn_ros.perception_node", *arguments) as second:
        both = "got 2 publishers on /occupancy_grid (/perception_node, /perception_node) and on "
        one.wait_for_status("outputs", DiagnosticStatus.WARN, both, 30.0)
        second.wait_for_text("got 2 publishers on /occupancy_grid (")


def test_a_node_that_is_not_named_yet_is_said_to_be_so() -> None:
    info = TopicEndpointInfo(node_name="_NODE_NAME_UNKNOWN_", node_namespace="_NODE_NAMESPACE_UNKNOWN_")
    assert node_name(info) == "a node whose name is not known yet"
    assert node_name(TopicEndpointInfo(node_name="a", node_namespace="/")) == "/a"
    assert node_name(TopicEndpointInfo(node_name="a", node_namespace="/front")) == "/front/a"
