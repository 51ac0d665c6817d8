"""Other nodes that publish what this one does: their messages would be mixed with its own, unseen by who listens."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node

from kyn_ros.diagnostics import node_name

ADVICE = "stop the others, or give each node a namespace (-r __ns:=/NAME)"


def rivals(node: Node, topics: Iterable[str]) -> str:
    """A sentence that names who else publishes on ``topics`` or has the node's name; empty where nobody does.

    topics: full names, each with one publisher of ``node``. Asks only what discovery knows already.
    """
    own = node.get_fully_qualified_name()
    shared = [topic for topic in topics if node.count_publishers(topic) > 1]
    if shared:
        infos = node.get_publishers_info_by_topic(shared[0])
        names = ", ".join(sorted(map(node_name, infos)))
        others = f" and on {len(shared) - 1} other topics of this node" if len(shared) > 1 else ""
        return f"outputs: got {len(infos)} publishers on {shared[0]} ({names}){others}, expected {own} alone; {ADVICE}"
    alike = [f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces()].count(own)
    if alike > 1:
        return f"node: got {alike} nodes named {own}, expected one, or their services are mixed; {ADVICE}"
    return ""
