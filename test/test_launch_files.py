"""Launch, RViz and Nav2 files against the code, without a ROS 2 installation: every name in them exists.

Where ``launch`` is importable (a ROS 2 installation), it also parses the launch files and starts the node with them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

if not os.environ.get("KYN_REQUIRE_ROS"):
    pytest.importorskip("rclpy")

from kyn_ros import environment
from kyn_ros.params import PerceptionParameters, flatten
from kyn_ros.replay_params import ReplayParameters

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.xml"))
PARAMETERS = {"perception_node": PerceptionParameters, "replay_node": ReplayParameters}
PUBLISHED = {
    "occupancy_grid": "OccupancyGrid",
    "occupancy_grid_fused": "OccupancyGrid",
    "occupied_voxels": "PointCloud2",
    "obstacle_points": "PointCloud2",
    "clearing_points": "PointCloud2",
    "points": "PointCloud2",
    "depth/image_rect": "Image",
    "depth/camera_info": "CameraInfo",
    "depth/colorized": "Image",
}
TAGS = {"arg", "group", "set_env", "let", "node", "param", "remap", "include", "executable", "launch"}
DISPLAYS = {
    "rviz_default_plugins/Map": "OccupancyGrid",
    "rviz_default_plugins/PointCloud2": "PointCloud2",
    "rviz_default_plugins/Image": "Image",
}


def root_of(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def displays() -> Iterator[dict]:
    yield from yaml.safe_load((ROOT / "config/rviz/kyn.rviz").read_text())["Visualization Manager"]["Displays"]


def rviz_topics() -> dict[str, dict]:
    return {d["Topic"]["Value"]: d for d in displays() if "Topic" in d}


def test_there_are_launch_files():
    assert {path.name for path in LAUNCH_FILES} == {"perception.launch.xml", "kitti360_replay.launch.xml"}


def test_the_table_of_published_topics_is_that_of_the_node():
    text = (ROOT / "kyn_ros/outputs.py").read_text()
    table = dict(re.findall(r'Output\("([\w/]+)", (\w+),', text))
    assert {topic: kind for topic, kind in table.items() if topic != "occupancy_volume"} == PUBLISHED


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
class TestLaunchFile:
    def test_tags_and_attributes_are_known(self, path):
        assert {element.tag for element in root_of(path).iter()} <= TAGS
        for node in root_of(path).iter("node"):
            known = {"pkg", "exec", "name", "namespace", "output", "args", "ros_args", "if", "unless"}
            assert set(node.attrib) <= known

    def test_every_argument_has_a_description(self, path):
        for argument in root_of(path).findall("arg"):
            assert len(argument.get("description", "")) > 5, argument.get("name")
            assert argument.get("default") is not None, f"{argument.get('name')} has no default"

    def test_every_argument_is_used_and_every_variable_declared(self, path):
        text, root = path.read_text(), root_of(path)
        used = set(re.findall(r"\$\(var (\w+)\)", text))
        declared = {a.get("name") for a in root.findall("arg")} | {a.get("name") for a in root.iter("let")}
        assert used == declared

    def test_executables_are_installed(self, path):
        cmake = (ROOT / "CMakeLists.txt").read_text()
        for node in root_of(path).iter("node"):
            if node.get("pkg") == "kyn":
                assert f"scripts/{node.get('exec')}" in cmake
            else:
                assert (node.get("pkg"), node.get("exec")) == ("rviz2", "rviz2")

    def test_files_exist(self, path):
        files = re.findall(r"\$\(find-pkg-share kyn\)/([\w./]+)", path.read_text())
        assert files
        for file in files:
            assert (ROOT / file).is_file(), file

    def test_parameters_exist(self, path):
        rules = {let.get("name"): let.get("value", "") for let in root_of(path).iter("let")}
        for node in root_of(path).iter("node"):
            if node.get("pkg") != "kyn":
                continue
            arguments = node.get("ros_args", "")
            for name in re.findall(r"\$\(var (\w+_rule)\)", arguments):
                arguments += " " + rules[name]
            names = set(re.findall(r"(\w+):=", arguments)) - {"use_sim_time"}
            assert names
            assert names <= {name for name, _ in flatten(PARAMETERS[node.get("exec", "")])}

    def test_later_rules_win_over_the_params_file(self, path):
        for node in root_of(path).iter("node"):
            if node.get("pkg") == "kyn":
                arguments = node.get("ros_args", "")
                assert 0 < arguments.index("--params-file") < arguments.index(" -p ")

    def test_remapped_topics_exist(self, path):
        texts = {node: (ROOT / f"kyn_ros/{node}.py").read_text() for node in PARAMETERS}
        # The pose source is named as its topic.
        texts["perception_node"] += (ROOT / "kyn_ros/params.py").read_text()
        for node in root_of(path).iter("node"):
            for remap in node.iter("remap"):
                topic = remap.get("from", "")
                if node.get("pkg") == "kyn":
                    assert f'"{topic}"' in texts[node.get("exec", "")], topic

    def test_fast_dds_profile_is_set_for_all_that_is_started(self, path):
        for group in [element for element in root_of(path).iter("group") if element.find("node") is not None]:
            first = [element.get("name") for element in group][: len(environment.PROFILE_VARIABLES)]
            assert set(first) == set(environment.PROFILE_VARIABLES), "they must come before the nodes"
        assert not root_of(path).findall("node"), "a node outside a group that sets the profile"


def test_replay_runs_on_simulated_time_and_passes_only_what_is_declared():
    declared = {argument.get("name") for argument in root_of(ROOT / "launch/perception.launch.xml").findall("arg")}
    (include,) = root_of(ROOT / "launch/kitti360_replay.launch.xml").findall("include")
    passed = {argument.get("name"): argument.get("value") for argument in include.findall("arg")}
    assert set(passed) <= declared
    assert passed["use_sim_time"] == "true"


def test_rviz_shows_grid_voxels_clouds_depth_and_camera_in_base_link():
    shown = {topic for topic, display in rviz_topics().items() if display["Enabled"]}
    assert {"/occupancy_grid", "/occupied_voxels", "/points", "/depth/colorized", "/image"} <= shown
    assert any(display["Class"] == "rviz_default_plugins/TF" for display in displays())
    settings = yaml.safe_load((ROOT / "config/rviz/kyn.rviz").read_text())["Visualization Manager"]["Global Options"]
    assert settings["Fixed Frame"] == PerceptionParameters().grid.frame_id


def test_rviz_topics_are_published_with_that_type_and_a_qos_that_matches():
    qos = PerceptionParameters().qos
    published = {name: qos.occupancy_grid for name in ("occupancy_grid", "occupancy_grid_fused")}
    published["depth/colorized"] = qos.depth
    for topic, display in rviz_topics().items():
        settings = display["Topic"]
        if topic == "/image":
            assert settings["Reliability Policy"] == "Best Effort", "a camera driver may send best effort"
            continue
        name = topic.removeprefix("/")
        assert PUBLISHED[name] == DISPLAYS[display["Class"]]
        offered = published.get(name, qos.clouds)
        assert settings["Reliability Policy"].lower() == offered.reliability
        assert settings["Durability Policy"].lower().replace(" ", "_") == offered.durability


def test_rviz_topics_follow_the_namespace():
    nodes = root_of(ROOT / "launch/perception.launch.xml").iter("node")
    (rviz,) = [node for node in nodes if node.get("pkg") == "rviz2"]
    remapped = {remap.get("from") for remap in rviz.iter("remap")}
    updates = {display["Update Topic"]["Value"] for display in displays() if "Update Topic" in display}
    assert remapped == set(rviz_topics()) | updates


def test_nav2_sources_are_published_with_that_type_and_height():
    costmap = yaml.safe_load((ROOT / "config/nav2/local_costmap.yaml").read_text())
    layer = costmap["local_costmap"]["local_costmap"]["ros__parameters"]["obstacle_layer"]
    sources = layer["observation_sources"].split()
    grid = PerceptionParameters().grid
    assert {source for source, value in layer.items() if isinstance(value, dict)} == set(sources)
    for source in (layer[name] for name in sources):
        assert PUBLISHED[source["topic"].removeprefix("/")] == source["data_type"]
        assert (source["min_obstacle_height"], source["max_obstacle_height"]) == (grid.min_height_m, grid.max_height_m)
        assert source["marking"] != source["clearing"]
    assert {layer[name]["topic"] for name in sources if layer[name]["marking"]} == {"/obstacle_points"}


needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros come only with a ROS 2 installation",
)


@needs_launch
@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_ros_reads_the_launch_file(path):
    from launch.frontend import Parser

    entity, parser = Parser.load(str(path))
    arguments = {argument.name for argument in parser.parse_description(entity).get_launch_arguments()}
    assert arguments >= {argument.get("name") for argument in root_of(path).findall("arg")}


@needs_launch
def test_ros_starts_the_node_and_ends_it_cleanly(tmp_path):
    """The node refuses the missing model in one sentence, keeps running, and ends with exit code 0."""
    ament_index = pytest.importorskip("ament_index_python.packages")
    try:
        share = Path(ament_index.get_package_share_directory("kyn"))
    except LookupError:
        pytest.skip("kyn is not on AMENT_PREFIX_PATH: build with colcon and source install/setup.bash")
    from launch import LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler, Shutdown
    from launch.event_handlers import OnProcessExit, OnProcessIO
    from launch.launch_description_sources import AnyLaunchDescriptionSource

    said, codes = [], []

    def heard(event):
        said.append(event.text.decode())
        return [Shutdown()] if "not configured" in said[-1] else None

    def exited(event, _):
        codes.append(event.returncode)

    arguments = {"model": str(tmp_path / "nowhere"), "camera_pose": "[0.0, 0.0, 1.5, -1.57, 0.0, -1.57]"}
    description = LaunchDescription(
        [
            IncludeLaunchDescription(
                AnyLaunchDescriptionSource(str(share / "launch/perception.launch.xml")),
                launch_arguments=arguments.items(),
            ),
            RegisterEventHandler(OnProcessIO(on_stdout=heard, on_stderr=heard)),
            RegisterEventHandler(OnProcessExit(on_exit=exited)),
        ]
    )
    service = LaunchService(argv=[])
    service.include_launch_description(description)
    begin = time.monotonic()
    assert service.run() == 0, "".join(said)
    assert time.monotonic() - begin < 30
    assert codes == [0], "".join(said)
    assert any("no such folder" in line for line in said)
