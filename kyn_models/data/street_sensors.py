"""Cameras and lidar of the synthetic car: KITTI-360's own calibration, side cameras, random mounts.

Numbers: the public calibration files of KITTI-360 (Liao, Xie, Geiger), ``calib_cam_to_pose.txt``,
``calib_cam_to_velo.txt``, ``calib_sick_to_velo.txt``, ``perspective.txt`` and ``image_02.yaml``, ``image_03.yaml``.
``CAMERA_00`` is the rectified left camera: the frame of ``image_00/data_rect``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kyn_models.data.mei_camera import MeiCamera
from kyn_models.data.street_scene import rotation
from kyn_models.types import Float64Array, Intrinsics

INTRINSICS = Intrinsics(552.554261, 552.554261, 682.049453, 238.769549, 1408, 376)
CAMERAS = ("00", "01", "left", "right")
"""Names of the pinhole cameras: the stereo pair, and one to each side."""
FISHEYES = {
    "02": MeiCamera(
        2.2134047507854890e00,
        1.6798235660113681e-02,
        1.6548773243373522e00,
        4.2223943394772046e-04,
        4.2462134260997584e-04,
        1.3363220825849971e03,
        1.3357883350012958e03,
        7.1694323510126321e02,
        7.0576498308221585e02,
        1400,
        1400,
    ),
    "03": MeiCamera(
        2.5535139132482758e00,
        4.9370396274089505e-02,
        4.5068455478645308e00,
        1.3477698472982495e-03,
        -7.0340482615055284e-04,
        1.4854388981875156e03,
        1.4849477411748708e03,
        6.9888316784030962e02,
        6.9814541887723055e02,
        1400,
        1400,
    ),
}
"""Fisheye cameras: 02 looks to the left, 03 to the right."""
BASELINE_M = 328.318735 / 552.554261
"""P_rect_01: camera 01 stands this far to the right of camera 00 along the rectified x axis."""
VEHICLE_HEIGHT_M = 0.93
"""Height of KITTI-360's vehicle frame (x forward, y right, z down) above the road."""

CAM_TO_POSE = {
    "image_00": "0.0371783278 -0.0986182135 0.9944306009 1.5752681039 0.9992675562 -0.0053553387 -0.0378902567 "
    "0.0043914093 0.0090621821 0.9951109327 0.0983468786 -0.6500000000",
    "image_01": "0.0194000864 -0.1051529641 0.9942668106 1.5977241400 0.9997374956 -0.0100836652 -0.0205732716 "
    "0.5981494900 0.0121891942 0.9944049345 0.1049297370 -0.6488433108",
    "image_02": "0.9995185086 0.0041276589 -0.0307524527 0.7264036936 -0.0307926666 0.0100608424 -0.9994751579 "
    "-0.1499658517 -0.0038160970 0.9999408692 0.0101830998 -1.0686400091",
    "image_03": "-0.9996821702 0.0005703407 -0.0252038325 0.7016842127 -0.0252033830 0.0007820814 0.9996820384 "
    "0.7463650950 0.0005898709 0.9999995315 -0.0007674583 -1.0751978255",
}
CAM_TO_VELO = (
    "0.04307104361 -0.08829286498 0.995162929 0.8043914418 -0.999004371 0.007784614041 0.04392796942 0.2993489574 "
    "-0.01162548558 -0.9960641394 -0.08786966659 -0.1770225824"
)
SICK_TO_VELO = (
    "0.9998328856 -0.01305514558 -0.01279702916 -0.3971222434 0.01322436405 0.9998250388 0.01322905751 "
    "-0.009085164561 0.0126220829 -0.01339607931 0.9998305997 -0.07072622777"
)
PERSPECTIVE = {
    "S_00": "1392.000000 512.000000",
    "K_00": "788.629315 0.000000 687.158398 0.000000 786.382230 317.752196 0.000000 0.000000 0.000000",
    "D_00": "-0.344441 0.141678 0.000414 -0.000222 -0.029608",
    "R_00": "1.000000 0.000000 0.000000 0.000000 1.000000 0.000000 0.000000 0.000000 1.000000",
    "T_00": "0.000000 0.000000 0.000000",
    "S_rect_00": "1408.000000 376.000000",
    "R_rect_00": "0.999974 -0.007141 -0.000089 0.007141 0.999969 -0.003247 0.000112 0.003247 0.999995",
    "P_rect_00": "552.554261 0.000000 682.049453 0.000000 0.000000 552.554261 238.769549 0.000000 0.000000 0.000000 "
    "1.000000 0.000000",
    "S_01": "1392.000000 512.000000",
    "K_01": "785.134093 0.000000 686.437073 0.000000 782.346289 321.352788 0.000000 0.000000 0.000000",
    "D_01": "-0.353195 0.161996 0.000383 -0.000242 -0.041476",
    "R_01": "0.999837 0.004862 -0.017390 -0.004974 0.999967 -0.006389 0.017358 0.006474 0.999828",
    "T_01": "-0.594052 0.007198 -0.010233",
    "S_rect_01": "1408.000000 376.000000",
    "R_rect_01": "0.999778 -0.012115 0.017222 0.012059 0.999922 0.003351 -0.017261 -0.003143 0.999846",
    "P_rect_01": "552.554261 0.000000 682.049453 -328.318735 0.000000 552.554261 238.769549 0.000000 0.000000 0.000000 "
    "1.000000 0.000000",
}


def numbers(text: str) -> Float64Array:
    """The (3, 4), made (4, 4), or (3, 3), made (4, 4), matrix of a calibration line's numbers."""
    values = np.array(text.split(), dtype=np.float64)
    out = np.eye(4)
    out[:3, : values.size // 3] = values.reshape(3, -1)
    return out


def _orthonormal(pose: Float64Array) -> Float64Array:
    """The pose with its rotation rounded to the nearest true rotation (the files carry six to ten digits)."""
    u, _, v = np.linalg.svd(pose[:3, :3])
    out = pose.copy()
    out[:3, :3] = u @ v
    return out


def _base_from_vehicle() -> Float64Array:
    pose = np.diag((1.0, -1.0, -1.0, 1.0))
    pose[2, 3] = VEHICLE_HEIGHT_M
    return pose


BASE_FROM_VEHICLE = _base_from_vehicle()
BASE_FROM_CAMERA_00 = _orthonormal(
    BASE_FROM_VEHICLE @ numbers(CAM_TO_POSE["image_00"]) @ np.linalg.inv(numbers(PERSPECTIVE["R_rect_00"]))
)
BASE_FROM_VELO = _orthonormal(
    BASE_FROM_VEHICLE @ numbers(CAM_TO_POSE["image_00"]) @ np.linalg.inv(numbers(CAM_TO_VELO))
)
_FISHEYE_NOISE = 1 << 20
"""Where the fisheye cameras' noise patterns begin: beyond those of all frames of the other cameras."""
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Mount:
    """Change of the cameras' mount against KITTI-360's: metres up, radians of pitch (positive down), roll and yaw."""

    height_m: float = 0.0
    pitch_rad: float = 0.0
    roll_rad: float = 0.0
    yaw_rad: float = 0.0


def random_mount(rng: np.random.Generator, strength: float = 1.0) -> Mount:
    """Another car's mount: 0.1 m up, 1.5 degrees of pitch, 0.7 of roll and yaw at strength 1 (standard deviations)."""
    height, pitch, roll, yaw = rng.normal(size=4) * strength
    return Mount(0.1 * height, math.radians(1.5) * pitch, math.radians(0.7) * roll, math.radians(0.7) * yaw)


def noise_seed(camera: str, frame: int) -> int:
    """A different pattern of sensor noise for every camera and frame."""
    if camera in FISHEYES:
        return _FISHEYE_NOISE + len(FISHEYES) * frame + list(FISHEYES).index(camera)
    return len(CAMERAS) * frame + CAMERAS.index(camera)


def base_from_camera(camera: str = "00", mount: Mount | None = None) -> Float64Array:
    """(4, 4) pose of an optical frame in base_link, rectified for the stereo pair.

    camera: "00" and "01" look ahead (the stereo pair), "left" and "right" to the sides from the same height, level
    but for 10 degrees down; "02" and "03" are the fisheye cameras to the sides. Raises ValueError for another name.
    """
    if camera in ("00", "01"):
        pose = BASE_FROM_CAMERA_00.copy()
        if camera == "01":
            pose[:3, 3] += BASELINE_M * pose[:3, 0]
    elif camera in FISHEYES:
        pose = _orthonormal(BASE_FROM_VEHICLE @ numbers(CAM_TO_POSE[f"image_{camera}"]))
    elif camera in ("left", "right"):
        sign = 1.0 if camera == "left" else -1.0
        pose = np.eye(4)
        pose[:3, :3] = rotation(0.0, 0.0, sign * math.pi / 2) @ rotation(0.0, math.radians(10.0), 0.0) @ _OPTICAL
        pose[:3, 3] = (0.72, sign * 0.3, 1.58)
    else:
        raise ValueError(f"camera: got '{camera}', expected 00, 01, left or right, or the fisheyes 02, 03")
    if mount is not None:
        turn = rotation(mount.roll_rad, mount.pitch_rad, mount.yaw_rad)
        pivot = BASE_FROM_CAMERA_00[:3, 3]
        pose[:3, 3] = pivot + turn @ (pose[:3, 3] - pivot) + (0.0, 0.0, mount.height_m)
        pose[:3, :3] = turn @ pose[:3, :3]
    return pose
