"""kyn on a robot: ROS 2 nodes around ``kyn_models``. Never imports torch; importing this package needs no ROS."""
