"""A whole training as a configuration file describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kyn_models.config import refuse_unread
from kyn_models.data.depth_items import PosedDataConfig
from kyn_models.data.sources import DataConfig
from kyn_models.data.street_cache import CacheConfig
from kyn_models.field_training import FieldLossConfig
from kyn_models.loop import LoopConfig
from kyn_models.models.loading import make_config
from kyn_models.multi_frame_training import DepthLossConfig, require_sweep
from kyn_models.view_synthesis import ViewLossConfig


@dataclass(frozen=True)
class TrainConfig:
    """A whole training.

    family, model: the system and the keys of its own configuration. data, held_out: frames to train and to validate
    on (``held_out`` may be left out for streets: ``validation`` is used); view_loss: what is learned from them.
    streets, validation, loss: the same for training on the geometry of streets, where there is no ``data``.
    frames, held_out_frames, depth_loss: dymultidepth: posed frames with depth to train and to validate on, and what is
    learned from them.
    imagenet: start the image trunk from its ImageNet weights. start_density: per metre, what the field begins with
    (0: as random weights have it, about 0.7). lseg: kyn: the authors' demo_e200.ckpt, which stays frozen; labels: kyn:
    the classes that its text tower is asked about; vocabulary: CLIP's file, none for that of the labels extra.
    start_from: artifact folder of the same family to start from instead of all these.
    frozen: prefixes of parameters that keep their values, their normalisation statistics too.
    What a training of this kind does not read is refused where it is set.
    """

    model: dict[str, Any]
    family: Literal["bts", "kyn", "dymultidepth"] = "bts"
    data: DataConfig | None = None
    held_out: DataConfig | None = None
    view_loss: ViewLossConfig = ViewLossConfig()
    streets: CacheConfig = CacheConfig()
    validation: CacheConfig = CacheConfig(pairs=80, per_street=2, first_seed=900_000, nominal_share=1.0)
    loss: FieldLossConfig = FieldLossConfig()
    frames: PosedDataConfig | None = None
    held_out_frames: PosedDataConfig | None = None
    depth_loss: DepthLossConfig = DepthLossConfig()
    loop: LoopConfig = LoopConfig()
    imagenet: bool = True
    start_density: float = 0.0
    lseg: str = ""
    labels: tuple[str, ...] = ()
    vocabulary: str = ""
    start_from: str = ""
    frozen: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        model = make_config(self.family, self.model, "model")
        known = getattr(model, "label_count", 0)
        if len(self.labels) != known:
            raise ValueError(
                f"labels: got {len(self.labels)}, expected {known} as model.label_count says (bts has none)"
            )
        multi_frame = self.family == "dymultidepth"
        if multi_frame != (self.frames is not None) or multi_frame != (self.held_out_frames is not None):
            raise ValueError(
                f"frames, held_out_frames: got {_given(self.frames)} and {_given(self.held_out_frames)} for "
                f"{self.family}, expected both for dymultidepth and none for others"
            )
        if multi_frame:
            require_sweep(self.depth_loss, model.matching)
        if multi_frame and (self.data is not None or self.start_density > 0):
            raise ValueError("data, start_density: got one of them for dymultidepth, expected frames alone")
        if self.family == "kyn" and not (self.lseg or self.start_from):
            raise ValueError("lseg: got none, expected the authors' demo_e200.ckpt, or start_from: an artifact of kyn")
        if self.start_density < 0:
            raise ValueError(f"start_density: got {self.start_density}, expected 0 or above, per metre")
        if self.data is None and self.held_out is not None:
            raise ValueError("held_out: got frames to validate on and no `data` to train on, expected both or neither")
        if self.data is not None and self.data.layout != "streets" and self.held_out is None:
            raise ValueError("held_out: got none, expected the frames that say which model is best")
        self._require_sizes()
        self._refuse_unread()

    def _require_sizes(self) -> None:
        for name, held_out, training_name, training in (
            ("held_out", self.held_out, "data", self.data),
            ("held_out_frames", self.held_out_frames, "frames", self.frames),
        ):
            if held_out is not None and training is not None and held_out.size != training.size:
                raise ValueError(f"{name}.size: got {list(held_out.size)}, expected that of {training_name}")

    def _refuse_unread(self) -> None:
        if self.family != "kyn":
            refuse_unread(self, ("lseg", "vocabulary"), f"for {self.family}")
        if self.frames is not None:
            refuse_unread(self, ("view_loss", "streets", "validation", "loss"), "beside frames and depth_loss")
        elif self.data is not None:
            refuse_unread(self, ("streets", "loss", "depth_loss"), "beside data and view_loss")
        else:
            refuse_unread(self, ("view_loss", "depth_loss"), "without data or frames")
        if self.held_out is not None:
            refuse_unread(self, ("validation",), "beside held_out")


def _given(value: object) -> str:
    return "none" if value is None else "one"
