"""Pictures and meshes: what is drawn where."""

import cv2
import numpy as np
import pytest

from kyn_models import occupancy, views
from kyn_models.artifact import KITTI360_CAMERA, forward_mount
from kyn_models.palette import class_colour
from kyn_models.ply import write_voxel_mesh
from kyn_models.types import Prediction, VoxelGridSpec
from kyn_models.voxel_faces import exposed

SPEC = VoxelGridSpec(x_m=(0, 20), y_m=(-6, 6), z_m=(-0.4, 2.8), resolution_m=0.4)


@pytest.fixture
def prediction() -> Prediction:
    """A box ahead on the left, unknown on the right, depth with sky above and a hole below."""
    camera = KITTI360_CAMERA.resized(640, 192)
    volume = np.zeros(SPEC.shape, np.uint8)
    centres = SPEC.centres()
    volume[(np.abs(centres[..., 0] - 12) < 1) & (np.abs(centres[..., 1] - 3) < 1) & (centres[..., 2] < 1.6)] = 250
    volume[centres[..., 1] < -4] = 255
    depth = np.full((192, 640), 10.0, np.float32)
    depth[:50] = np.inf
    depth[180:] = np.nan
    grid = occupancy.volume_to_grid(volume, SPEC, occupancy.GridOptions())
    image = np.full((192, 640, 3), 90, np.uint8)
    return Prediction(0, image, camera, SPEC, forward_mount(1.55, 5.0), depth, volume, grid=grid)


def test_depth_colours_keep_sky_and_holes_apart(prediction):
    colours = views.colourise_depth(prediction.depth_m)
    assert (colours[0, 0] == views.SKY_COLOUR).all()
    assert (colours[191, 0] == views.UNKNOWN_COLOUR).all()
    near, far = views.colourise_depth(np.array([[4.0, 40.0]], np.float32))[0]
    assert near.sum() > far.sum()


def test_the_sky_is_no_depth(prediction):
    """Its colour is far from those of all depths, in what the eye sees (CIE L*a*b*)."""

    def seen_as(colours):
        return cv2.cvtColor(np.asarray(colours, np.float32).reshape(1, -1, 3) / 255, cv2.COLOR_RGB2LAB)[0]

    depths = views.colourise_depth(np.geomspace(1.0, 200.0, 500, dtype=np.float32)[None])
    others = np.concatenate([depths[0], [views.UNKNOWN_COLOUR]])
    assert np.linalg.norm(seen_as(others) - seen_as(views.SKY_COLOUR), axis=-1).min() > 40


def test_the_vehicle_is_no_part_of_the_frustum(prediction):
    picture = views.birds_eye_picture(prediction, height=300)
    width = picture.shape[1] - 92
    for part in (picture[:, :width], picture[:, width:]):  # as the legend shows it
        rows, columns = np.nonzero((part == views.VEHICLE_COLOUR).all(-1))
        assert len(rows) > 20 and np.ptp(rows) < 21 and np.ptp(columns) < 21
        # Its tip is up: narrow above, wide below.
        assert np.ptp(columns[rows < rows.min() + 4]) < np.ptp(columns[rows > rows.min() + 8])
    turned = np.zeros((40, 40, 3), np.uint8)
    views.draw_vehicle(turned, (20, 20), heading=np.pi / 2, length=20)
    assert turned[20, 17].tolist() == list(views.VEHICLE_COLOUR) and not turned[20, 29].any(), "it looks to the left"


def test_birds_eye_view_has_forward_up_and_left_left(prediction):
    picture = views.birds_eye_picture(prediction, height=300)
    width = picture.shape[1] - 92
    red = (picture[:, :width] == views.OCCUPIED_COLOUR).all(-1)
    rows, columns = np.nonzero(red)
    # 12 m ahead of 20, 3 m left of -6..6: above the middle, in the left half.
    assert abs(rows.mean() / 300 - (1 - 12 / 20)) < 0.03
    assert abs(columns.mean() / width - (6 - 3) / 12) < 0.03
    unknown = (picture[:, :width] == views.UNKNOWN_COLOUR).all(-1)
    assert unknown[:, -4].mean() > 0.8 and unknown[:, width // 2].mean() < 0.1


def test_what_the_camera_did_not_see_is_grey_and_outside_the_frustum(prediction):
    seen = np.zeros((192, 640), bool)
    seen[:, 200:440] = True
    picture = views.input_picture(prediction, seen)
    assert (picture[100, 199] == views.UNKNOWN_COLOUR).all() and (picture[100, 200] == 90).all()
    assert (picture[:24, :200] != views.UNKNOWN_COLOUR).any(), "what grey means is written nowhere"
    assert views.input_picture(prediction) is prediction.image

    def drawn(seen):
        """Columns of the frustum's lines, far from the vehicle."""
        width = views.birds_eye_picture(prediction, height=300).shape[1] - 92
        row = views.birds_eye_picture(prediction, height=300, seen=seen)[150:160, :width].astype(int)
        return np.nonzero((np.abs(row - views.FRUSTUM_COLOUR).sum(-1) < 60).any(0))[0]

    narrow, wide = drawn(seen), drawn(None)
    assert len(narrow) and (not len(wide) or np.ptp(narrow) < np.ptp(wide))
    k = prediction.intrinsics
    half_width_m = 10 * (k.width / 2 - 200) / k.fx  # 10 m ahead
    scale = (views.birds_eye_picture(prediction, height=300).shape[1] - 92) / 12
    assert abs(np.ptp(narrow) / 2 - half_width_m * scale) < 0.15 * half_width_m * scale


def test_the_depth_picture_says_what_grey_is_where_there_is_any(prediction):
    def swatches(depth):
        bar = views.depth_picture(Prediction(**{**vars(prediction), "depth_m": depth}))[192:]
        return (bar == views.UNKNOWN_COLOUR).all(-1).sum()

    assert swatches(prediction.depth_m) > 100 and swatches(np.nan_to_num(prediction.depth_m, nan=5.0)) == 0


def test_voxels_are_seen_where_they_are(prediction):
    picture = views.voxel_picture(prediction)
    empty = views.voxel_picture(
        Prediction(**{**vars(prediction), "volume": np.zeros(SPEC.shape, np.uint8)}),
    )
    changed = (picture != empty).any(-1)
    assert 200 < changed.sum() < picture.shape[0] * picture.shape[1] / 4
    assert np.nonzero(changed)[1].mean() < picture.shape[1] / 2


def test_a_frame_picture_fits_a_video(prediction):
    picture = views.frame_picture(prediction, "test")
    assert picture.dtype == np.uint8 and picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0


def test_mesh_of_one_voxel_is_a_closed_cube(tmp_path):
    volume = np.zeros(SPEC.shape, np.uint8)
    volume[2, 5, 7] = 254
    file = tmp_path / "v.ply"
    assert write_voxel_mesh(file, volume, SPEC, 0.65) == 6
    content = file.read_bytes()
    header, body = content.split(b"end_header\n", 1)
    assert b"element vertex 24" in header and b"element face 6" in header
    vertices = np.frombuffer(body[: 24 * 15], dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    low = np.array(SPEC.origin_m) + 0.4 * np.array([7, 5, 2])
    np.testing.assert_allclose(vertices["xyz"].min(0), low, atol=1e-5)
    np.testing.assert_allclose(vertices["xyz"].max(0), low + 0.4, atol=1e-5)
    faces = np.frombuffer(body[24 * 15 :], dtype=[("n", "u1"), ("i", "<i4", 4)])
    assert (faces["n"] == 4).all() and sorted(faces["i"].ravel()) == list(range(24))


CLASSES = ("road", "car", "vegetation")


@pytest.fixture
def labelled(prediction) -> Prediction:
    """The box is a car, everything else road."""
    labels = np.where(prediction.volume == 250, 1, 0).astype(np.uint8)
    return Prediction(**{**vars(prediction), "labels": labels, "label_names": CLASSES})


def count(picture, colour) -> int:
    return int((picture == colour).all(-1).sum())


def test_occupied_cells_have_the_colour_of_their_class(labelled, prediction):
    car = class_colour("car")
    seen = views.birds_eye_picture(labelled, height=300)
    plain = views.birds_eye_picture(prediction, height=300)
    box = (plain[:, : plain.shape[1] - 92] == views.OCCUPIED_COLOUR).all(-1)
    assert box.sum() > 500 and (seen[:, : box.shape[1]][box] == car).all()
    assert count(seen, views.OCCUPIED_COLOUR) == 0 and count(seen, class_colour("vegetation")) == 0
    # The legend names the class that is there.
    assert count(seen[:, box.shape[1] :], car) > 100 and count(plain, car) == 0


def test_the_class_of_a_column_is_that_of_its_likeliest_cell_in_the_band(labelled):
    spec, options = SPEC, occupancy.GridOptions()
    volume, labels = np.zeros(spec.shape, np.uint8), np.zeros(spec.shape, np.uint8)
    labels[3, 4, 5], volume[3, 4, 5] = 1, 200
    labels[4, 4, 5], volume[4, 4, 5] = 2, 210
    labels[0, 4, 5], volume[0, 4, 5] = 3, 250  # below the band
    labels[5, 4, 5], volume[5, 4, 5] = 3, 255  # unknown
    classes = occupancy.column_labels(volume, labels, spec, options)
    assert classes.shape == spec.shape[1:] and classes[4, 5] == 2 and not np.delete(classes.ravel(), 4 * 50 + 5).any()


def test_voxels_and_their_mesh_have_the_colour_of_their_class(labelled, prediction, tmp_path):
    def upper_side(picture):  # its shade is 1
        return count(picture[30:], class_colour("car"))

    drawn, plain = views.voxel_picture(labelled), views.voxel_picture(prediction)
    assert drawn.shape == plain.shape and upper_side(drawn) > upper_side(plain) + 20
    colours = {}
    for name, labels in (("by class", labelled.labels), ("by height", None)):
        file = tmp_path / f"{name}.ply"
        faces = write_voxel_mesh(file, prediction.volume, SPEC, 0.65, labels, CLASSES)
        body = file.read_bytes().split(b"end_header\n")[1]
        vertices = np.frombuffer(body[: 4 * faces * 15], dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
        colours[name] = vertices["rgb"].astype(float)
    assert colours["by class"].shape == colours["by height"].shape
    hues = colours["by class"] / colours["by class"].max(axis=1, keepdims=True)
    np.testing.assert_allclose(hues, np.broadcast_to(np.array(class_colour("car")) / 235, hues.shape), atol=0.02)
    assert (colours["by height"] != colours["by class"]).any()


def test_the_image_in_the_colours_of_its_classes(labelled, prediction):
    picture = views.labels_picture(labelled)
    height, width = prediction.depth_m.shape
    assert picture.shape[0] == height and picture.shape[1] >= width + 92
    # Depth is 10 m between sky and hole: those pixels show road, but for the part beside and above the grid.
    road = np.rint(0.35 * 90 + 0.65 * np.array(class_colour("road"))).astype(int)
    assert np.abs(picture[150, 320].astype(int) - road).max() <= 1
    np.testing.assert_array_equal(picture[10, 320], prediction.image[10, 320])
    np.testing.assert_array_equal(picture[185, 320], prediction.image[185, 320])
    with pytest.raises(ValueError, match="without labels"):
        views.labels_picture(prediction)


def test_what_the_camera_did_not_see_is_grey_beside_the_classes_too(labelled):
    seen = np.ones((192, 640), bool)
    seen[:, :200] = False
    depth = np.where(seen, labelled.depth_m, np.float32(np.nan))
    picture = views.labels_picture(Prediction(**{**vars(labelled), "depth_m": depth}), seen)
    assert (picture[150, 100] == views.UNKNOWN_COLOUR).all()
    assert (picture[150, 320] != views.UNKNOWN_COLOUR).any()


def test_small_images_are_enlarged_for_what_is_written_beside_them(prediction):
    camera = KITTI360_CAMERA.resized(160, 64)
    image = np.random.default_rng(1).integers(0, 256, (64, 160, 3), dtype=np.uint8)
    depth = np.full((64, 160), 10, np.float32)
    small = Prediction(**{**vars(prediction), "image": image, "intrinsics": camera, "depth_m": depth})
    drawn = views.input_picture(small)
    assert drawn.shape == (256, 640, 3)
    np.testing.assert_array_equal(drawn[1::4, 1::4], image)
    assert views.depth_picture(small).shape == (256 + 34, 640, 3)
    half = np.arange(160) < 80
    assert (views.input_picture(small, np.broadcast_to(half, (64, 160)))[100, 321:] == views.UNKNOWN_COLOUR).all()


def test_a_frame_picture_with_classes_has_the_size_of_one_without(labelled, prediction):
    with_classes, without = views.frame_picture(labelled, "x"), views.frame_picture(prediction, "x")
    assert with_classes.shape[0] == without.shape[0] and with_classes.shape[1] % 2 == 0


def test_video_has_one_frame_per_picture(tmp_path):
    av = pytest.importorskip("av", reason="videos need PyAV")
    from kyn_models.video import write_video

    pictures = [np.full((64, 96, 3), 30 * i, np.uint8) for i in range(5)]
    assert write_video(tmp_path / "v.mp4", pictures) == 5
    with av.open(str(tmp_path / "v.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5 and frames[4].mean() > frames[0].mean() + 80
    with pytest.raises(ValueError, match="no picture"):
        write_video(tmp_path / "none.mp4", [])


def test_buried_cells_are_not_exposed():
    solid = np.zeros((5, 5, 5), bool)
    solid[1:4, 1:4, 1:4] = True
    shown = exposed(solid)
    assert shown.sum() == 26 and not shown[2, 2, 2]


def test_a_rerun_recording_holds_every_view(prediction, labelled, tmp_path):
    pytest.importorskip("rerun", reason="the browser viewer needs rerun-sdk")
    from kyn_ros.rerun_view import save

    fused = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    sizes = []
    for maps in ({}, {prediction.stamp_ns: fused}):
        save([prediction, labelled], tmp_path / "demo.rrd", maps)
        content = (tmp_path / "demo.rrd").read_bytes()
        assert content.startswith(b"RRF") and len(content) > 10_000
        assert (b"fused_grid" in content) == bool(maps)
        sizes.append(len(content))
    assert sizes[1] - sizes[0] > fused.size / 2
