"""The demo's predictions in a Rerun viewer: a file, and a viewer in the browser that opens it."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as blueprint

from kyn_models import occupancy, views
from kyn_models.types import UNKNOWN, Prediction, UInt8Array
from kyn_models.voxel_faces import exposed

WEB_PORT, DATA_PORT = 9090, 9876


Maps = Mapping[int, UInt8Array]
"""Pictures (H, W, 3) uint8 RGB of the grid of all images until a stamp, by that stamp."""


def log(predictions: Sequence[Prediction], maps: Maps, occupied_above: float = 0.65) -> None:
    """Send predictions to the current recording: camera, depth, voxels, surface points, the grid of the image and that
    of all images, on the time line."""
    rr.log("base_link", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for prediction in predictions:
        rr.set_time("image_stamp", timestamp=prediction.stamp_ns * 1e-9)
        _log_camera(prediction)
        if prediction.volume is not None:
            # The viewer draws 2^16 boxes at most: those inside others are left out.
            solid = (prediction.volume != UNKNOWN) & (prediction.volume > 254.0 * occupied_above)
            shown = exposed(solid)
            centres = prediction.spec.centres()[shown]
            half = np.full((len(centres), 3), prediction.spec.resolution_m / 2, dtype=np.float32)
            cells, names = np.flatnonzero(shown), prediction.label_names
            colours = views.cell_colours(cells, prediction.spec, prediction.labels, names)
            rr.log("base_link/voxels", rr.Boxes3D(centers=centres, half_sizes=half, colors=colours, fill_mode="solid"))
        points, colours = occupancy.surface_points(prediction)
        rr.log("base_link/points", rr.Points3D(points, colors=colours, radii=0.04))
        rr.log("grid", rr.Image(views.birds_eye_picture(prediction)))
        if prediction.stamp_ns in maps:
            rr.log("fused_grid", rr.Image(maps[prediction.stamp_ns]))


def _log_camera(prediction: Prediction) -> None:
    k, pose = prediction.intrinsics, prediction.base_from_camera
    rr.log("base_link/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    rr.log(
        "base_link/camera/image",
        rr.Pinhole(image_from_camera=k.matrix, resolution=[k.width, k.height], image_plane_distance=2.0),
    )
    rr.log("base_link/camera/image/rgb", rr.Image(prediction.image))
    if prediction.depth_m is not None:
        rr.log("depth", rr.Image(views.depth_picture(prediction)))


def layout(fused: bool) -> blueprint.Blueprint:
    """Space on the left; camera, depth and grids on the right. fused: there is a grid of all images."""
    grids = [blueprint.Spatial2DView(origin="grid", name="occupancy from above")]
    if fused:
        grids.append(blueprint.Spatial2DView(origin="fused_grid", name="occupancy of all frames"))
    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Spatial3DView(origin="base_link", name="space"),
            blueprint.Vertical(
                blueprint.Spatial2DView(origin="base_link/camera/image", name="camera"),
                blueprint.Spatial2DView(origin="depth", name="depth"),
                blueprint.Horizontal(*grids),
            ),
            column_shares=[3, 2],
        ),
        collapse_panels=True,
    )


def save(predictions: Sequence[Prediction], path: Path, maps: Maps) -> None:
    """Write a recording that the Rerun viewer opens."""
    rr.init("kyn demo")
    rr.save(str(path), default_blueprint=layout(bool(maps)))
    log(predictions, maps)
    rr.disconnect()


def show(predictions: Sequence[Prediction], out: Path, maps: Maps) -> None:
    """Write ``out/demo.rrd`` and serve it to a viewer in the browser until Ctrl-C."""
    save(predictions, out / "demo.rrd", maps)
    rr.init("kyn demo")
    address = rr.serve_grpc(grpc_port=DATA_PORT, default_blueprint=layout(bool(maps)))
    rr.serve_web_viewer(web_port=WEB_PORT, open_browser=False, connect_to=address)
    log(predictions, maps)
    query = urllib.parse.quote(address, safe="")
    print(f"open http://localhost:{WEB_PORT}?url={query} (Ctrl-C ends); also: rerun {out / 'demo.rrd'}", flush=True)
    try:
        while True:
            time.sleep(1.0)
    except KeyboardInterrupt:
        print()
