"""The environment of kyn's processes: the Fast DDS profile, and what of it would make ROS choke."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from kyn_ros import doctor_command, environment
from kyn_ros.cli import main


@pytest.mark.parametrize(
    ("library", "variables"),
    [
        ("libfastdds.so.3.2", ["FASTDDS_DEFAULT_PROFILES_FILE"]),
        ("libfastrtps.so.2.14", ["FASTRTPS_DEFAULT_PROFILES_FILE"]),
        ("libother.so", list(environment.PROFILE_VARIABLES)),
    ],
)
def test_fastdds_profile_is_named_for_the_installed_version_unless_the_user_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, variables: list[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    (tmp_path / "ros/lib").mkdir(parents=True)
    (tmp_path / "ros/lib" / library).touch()
    prefix = {"AMENT_PREFIX_PATH": str(tmp_path / "ros")}
    fresh = dict(prefix)
    environment.set_fastdds_profile(fresh)
    assert list(fresh) == [*prefix, *variables]
    assert all(Path(fresh[variable]).is_file() for variable in variables)
    own = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    environment.set_fastdds_profile(own)
    assert own == {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ROS_DOMAIN_ID", "abc", "got 'abc', expected 0 to 232"),
        ("ROS_DOMAIN_ID", "500", "got '500', expected 0 to 232"),
        ("ROS_DOMAIN_ID", "-1", "got '-1', expected 0 to 232"),
        ("RMW_IMPLEMENTATION", "rmw_other_cpp", "got rmw_other_cpp, expected what is installed here"),
        ("FASTDDS_DEFAULT_PROFILES_FILE", "/nowhere.xml", "got /nowhere.xml, which does not exist"),
        ("FASTRTPS_DEFAULT_PROFILES_FILE", "/nowhere.xml", "got /nowhere.xml, which does not exist"),
    ],
)
def test_what_ros_would_choke_on_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    sentence: str,
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{variable}: {sentence}")):
        environment.check_environment({variable: value})
    environment.check_environment({variable: "", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp", "ROS_DOMAIN_ID": "232"})
    monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    for command in (["demo"], ["node"], ["play", "/"]):
        assert main(command) == 2
        assert f"kyn {command[0]}: {variable}: {sentence}" in capsys.readouterr().err


def test_a_demo_whose_processes_never_meet_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "got OFF" in capsys.readouterr().err


def test_doctor_names_another_middleware_than_the_installed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_other_cpp")
    (check,) = doctor_command.checks()
    assert check.status == "gap" and "rmw_other_cpp" in check.detail


@pytest.fixture
def without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no package of ROS is installed."""
    found = importlib.util.find_spec
    gone = ("rclpy", "tf2_ros", *doctor_command.MESSAGES)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else found(name, *rest))


def test_doctor_without_ros_names_one_gap_and_the_pip_of_this_python(
    without_ros: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/any place/kyn/.venv/bin/python")
    assert main(["doctor", "--model", "/nowhere"]) == 1
    lines = capsys.readouterr().out.splitlines()
    gaps = [line.split()[0] for line in lines if line.split()[1:2] == ["GAP"]]
    assert gaps == ["model", "runtime", "rclpy"]
    (rclpy,) = [line for line in lines if line.startswith("rclpy")]
    assert "; '/any place/kyn/.venv/bin/python' -m pip install '.[ros]' in kyn's source folder, or source" in rclpy
    assert all("-m pip install" in line for line in lines if "pip install" in line)


def test_doctor_and_readme_get_torch_in_the_same_way(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    main(["doctor", "--model", "/nowhere", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "pip install '.[train]'" in checks["torch"]["remedy"]


@pytest.mark.parametrize("command", [["node"], ["demo"], ["play", "."]])
def test_commands_without_ros_say_how_to_get_it(
    without_ros: None,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"kyn {command[0]}: needs the Python module rclpy, which is not installed here; pip install '.[ros]'"
    )
    assert not list(tmp_path.iterdir())


def test_shared_files_are_found_in_an_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share/kyn/config").mkdir(parents=True)
    (tmp_path / "share/kyn/config/only_here.yaml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(["/nowhere", str(tmp_path)]))
    found = environment.shared_file("config/only_here.yaml")
    assert found == tmp_path / "share/kyn/config/only_here.yaml"
    with pytest.raises(FileNotFoundError, match="install kyn again"):
        environment.shared_file("config/nowhere.yaml")
