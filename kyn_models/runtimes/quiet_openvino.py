"""OpenVINO without its usage reports: nothing that runs on a vehicle calls home.

Its import tells its makers about itself where ``openvino_telemetry`` is installed, as pip does beside it: a report over
the network, files in the home folder, and a fork of this process, in the node with the sockets of ROS 2 in it. Where
that package cannot be imported OpenVINO does without.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails

import openvino  # noqa: E402

__all__ = ["openvino"]
