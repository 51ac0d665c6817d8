"""Metric depth and occupancy from one camera: models, data, training, evaluation, export. No ROS in here."""

__version__ = "0.1.0"
