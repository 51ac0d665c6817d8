"""``kyn import kyn``: the authors' two files and the user's labels to one artifact, without CLIP in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need the train extra")
pytest.importorskip("instant_clip_tokenizer", reason="CLIP's vocabulary needs the labels extra")

from artifacts import seed_by_name  # noqa: E402

from kyn_models.artifact import WEIGHTS, Artifact, sha256  # noqa: E402
from kyn_models.cli import main  # noqa: E402
from kyn_models.cli.import_ import merged  # noqa: E402
from kyn_models.models import kyn_official  # noqa: E402
from kyn_models.models.kyn import Kyn, KynConfig  # noqa: E402
from kyn_models.models.loading import load_model, make_config  # noqa: E402
from kyn_models.networks.clip_text import ClipText, ClipTextConfig  # noqa: E402
from kyn_models.networks.clip_tokenizer import tokenize, tokenizer  # noqa: E402
from kyn_models.networks.lseg import LSegConfig  # noqa: E402
from kyn_models.networks.vit import VitConfig  # noqa: E402

PREFIX = "renderer.net."
TINY = KynConfig(
    encoder="resnet18",
    channels_dec=(8, 8, 16, 16, 32),
    d_out=8,
    lseg=LSegConfig(
        VitConfig(width=64, depth=4, heads=1, size=64), 480, (0, 1, 2, 3), (8, 12, 16, 20), features=16, out=24
    ),
    fused=12,
    hidden=16,
    heads=1,
    label_count=3,
)
CLIP = ClipTextConfig(width=64, heads=1, layers=1, out=24)
LABELS = ("road", "traffic light", "shopping cart")
Weights = dict[str, torch.Tensor]


@cache
def model() -> Kyn:
    model = Kyn(TINY).eval()
    seed_by_name(model)
    return model


@cache
def tower() -> ClipText:
    tower = ClipText(CLIP).eval()
    seed_by_name(tower)
    return tower


def official() -> Weights:
    """The whole model by the authors' names: with CLIP, both of its towers, and without text features."""
    weights = {name: value for name, value in model().state_dict().items() if name != "text_features"}
    weights |= {kyn_official.CLIP + name: value for name, value in tower().state_dict().items()}
    unused = {
        "visual.proj": torch.ones(8, 24),
        "visual.conv1.weight": torch.ones(8, 3, 2, 2),
        "logit_scale": torch.ones(()),
    }
    return weights | {kyn_official.CLIP + name: value for name, value in unused.items()}


def write_kyn(path: Path, weights: Weights | None = None) -> Path:
    """``kyn.pt``; by default with LSeg."""
    state = {PREFIX + name: value for name, value in (official() if weights is None else weights).items()}
    torch.save({"model": {**state, "renderer.renderer.iter_idx": torch.zeros(())}, "epoch": 3}, path)
    return path


def write_lseg(path: Path, weights: Weights | None = None, half: bool = False) -> Path:
    """``demo_e200.ckpt``, whose CLIP may be in float16."""
    state = {
        "net." + name.removeprefix(kyn_official.LSEG): value.half()
        if half and name.startswith(kyn_official.CLIP)
        else value
        for name, value in (official() if weights is None else weights).items()
        if name.startswith(kyn_official.LSEG)
    }
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1.0}}, path)
    return path


def without_lseg() -> Weights:
    return {name: value for name, value in official().items() if not name.startswith(kyn_official.LSEG)}


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., int]:
    """``call(checkpoint, *options)`` imports into ``tmp_path / "out"``."""

    def run(checkpoint: Path, *options: str) -> int:
        return main(["import", "kyn", str(checkpoint), str(tmp_path / "out"), "--no-export", *options])

    return run


def features() -> torch.Tensor:
    with torch.inference_mode():
        return tower()(torch.from_numpy(tokenize(LABELS, tokenizer())))


def check(folder: Path, tolerance: float = 1e-6) -> Artifact:
    """The artifact is the model, with what CLIP says about the labels."""
    from safetensors import safe_open

    artifact = Artifact.load(folder)
    assert artifact.manifest.family == "kyn" and artifact.manifest.labels == LABELS
    licences = artifact.manifest.licences
    assert "BSD" not in licences.weights and "LSeg" in licences.weights and "CC BY-NC-SA" in licences.data
    loaded = load_model(artifact)
    assert loaded.config == TINY
    for name, value in loaded.state_dict().items():
        if name != "text_features":
            assert torch.equal(value, model().state_dict()[name]), name
    torch.testing.assert_close(loaded.text_features, features(), atol=tolerance, rtol=0)
    assert features().std() > 0.1 and torch.cdist(features(), features()).sum() > 1
    with safe_open(str(artifact.path / WEIGHTS), "pt") as stored:
        assert "text_features" in stored.keys() and not any("clip" in name for name in stored.keys())  # noqa: SIM118
    return artifact


def test_a_file_that_holds_lseg(tmp_path: Path, call: Callable[..., int], capsys: Any) -> None:
    file = write_kyn(tmp_path / "kyn.pt")
    assert call(file, "--labels", ",".join(LABELS)) == 0
    artifact = check(tmp_path / "out")
    assert artifact.manifest.provenance == {"imported from": "kyn.pt", "sha256": sha256(file)}
    out = capsys.readouterr().out
    assert "about 3 labels" in out and "clip_pretrained.* (what it says" in out and "renderer.renderer.iter_idx" in out


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_lseg_in_the_second_file(tmp_path: Path, call: Callable[..., int], half: bool) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS) + "\n")
    file, second = write_kyn(tmp_path / "kyn.pt", without_lseg()), write_lseg(tmp_path / "lseg.ckpt", half=half)
    assert call(file, "--lseg", str(second), "--labels", str(labels)) == 0
    artifact = check(tmp_path / "out", 2e-2 if half else 1e-6)
    assert artifact.manifest.provenance["LSeg from"] == "lseg.ckpt"
    assert artifact.manifest.provenance["sha256 of LSeg"] == sha256(second)


def test_the_first_file_goes_before_the_second(tmp_path: Path, call: Callable[..., int], capsys: Any) -> None:
    other = {name: torch.zeros_like(value) for name, value in official().items()}
    file, second = write_kyn(tmp_path / "kyn.pt"), write_lseg(tmp_path / "lseg.ckpt", other)
    assert call(file, "--lseg", str(second), "--labels", ",".join(LABELS)) == 0
    assert "LSeg from" not in check(tmp_path / "out").manifest.provenance
    assert "lseg.ckpt, as kyn.pt holds LSeg's weights" in capsys.readouterr().out


def test_half_keeps_text_features_whole(tmp_path: Path, call: Callable[..., int]) -> None:
    assert call(write_kyn(tmp_path / "kyn.pt"), "--half", "--labels", ",".join(LABELS)) == 0
    loaded = load_model(Artifact.load(tmp_path / "out"))
    assert torch.equal(loaded.text_features, features())
    weight = "encoder.fuser.fused_reg.0.weight"
    assert torch.equal(loaded.state_dict()[weight], model().state_dict()[weight].half().float())


def test_what_the_shapes_do_not_tell_is_given(tmp_path: Path, call: Callable[..., int]) -> None:
    file = tmp_path / "import.yaml"
    file.write_text("model: {z_far: 60.0, lseg: {crop: 96}}\n")
    assert call(write_kyn(tmp_path / "kyn.pt"), "--config", str(file), "--labels", ",".join(LABELS)) == 0
    config = load_model(Artifact.load(tmp_path / "out")).config
    assert (config.z_far, config.lseg.crop, config.lseg.features) == (60.0, 96, 16)
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}


def test_published_shapes_tell_the_published_configuration() -> None:
    with torch.device("meta"):
        weights = Kyn(KynConfig()).state_dict()
    weights["code_xyz._freqs"] = torch.full((1, 12, 1), 1.5)
    told = make_config("kyn", kyn_official.config_of(weights), "shapes")
    # Decoders are never narrower than d_out: those of 32 channels have 64.
    assert told.channels_dec == (64, 64, 64, 128, 256)
    assert replace(told, channels_dec=KynConfig().channels_dec) == KynConfig()


def failures() -> dict[str, tuple[Weights, Weights | None, tuple[str, ...]]]:
    """Part of the sentence to: weights of kyn.pt, of the second file, further options."""
    whole, clip = official(), kyn_official.CLIP
    few = {
        name: {key: value for key, value in whole.items() if key != name}
        for name in (
            "mlp_coarse.lin_out.bias",
            "encoder.vlseg_encoder.scratch.head1.bias",
            "encoder.vlseg_encoder.pretrained.model.pos_embed",
            f"{clip}text_projection",
            f"{clip}ln_final.bias",
            "encoder.vision_encoder.encoder.encoder.conv1.weight",
            "code_xyz._freqs",
        )
    }
    return {
        **{f"missing: {name.removeprefix(clip)}": (weights, None, ()) for name, weights in few.items()},
        "extra: mlp_fine.lin_in.bias": ({**whole, "mlp_fine.lin_in.bias": torch.zeros(3)}, None, ()),
        "extra: attn.weight": ({**whole, f"{clip}attn.weight": torch.zeros(3)}, None, ()),
        "name the authors' demo_e200.ckpt as --lseg": (without_lseg(), None, ()),
        "got no weights named net.*": (without_lseg(), {}, ()),
        "is a checkpoint of bts, expected one of kyn; use kyn import bts": (
            {"mlp_coarse.lin_in.weight": torch.zeros(4, 4)},
            None,
            (),
        ),
        "--labels, word 2: is empty": (whole, None, ("--labels", "road,,car")),
        "got 90 tokens, expected at most 75": (whole, None, ("--labels", "road," + "car " * 90)),
        "nowhere.gz: no such file, expected CLIP's vocabulary": (whole, None, ("--vocabulary", "nowhere.gz")),
    }


@pytest.mark.parametrize("words", failures())
def test_what_is_wrong_is_one_sentence(tmp_path: Path, call: Callable[..., int], capsys: Any, words: str) -> None:
    weights, second, options = failures()[words]
    more = list(options) if "--labels" in options else ["--labels", ",".join(LABELS), *options]
    if second is not None:
        torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "lseg.ckpt")
        more += ["--lseg", str(tmp_path / "lseg.ckpt")]
    assert call(write_kyn(tmp_path / "kyn.pt", weights), *more) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_labels_and_vocabulary_are_looked_for_before_the_long_reading(
    tmp_path: Path, call: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kyn.pt").write_bytes(b"never read")
    assert call(tmp_path / "kyn.pt") == 2
    assert "--labels: got none" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    assert call(tmp_path / "kyn.pt", "--labels", "road,car") == 2
    error = capsys.readouterr().err
    assert "'.[labels]'" in error and "--vocabulary" in error and error.count("\n") == 1


def test_options_and_files_of_the_other_family(tmp_path: Path, capsys: Any) -> None:
    file = write_kyn(tmp_path / "kyn.pt")
    assert main(["import", "bts", str(file), str(tmp_path / "out")]) == 2
    assert "is a checkpoint of kyn, expected one of bts; use kyn import kyn" in capsys.readouterr().err
    for option in ("--labels", "--lseg", "--vocabulary"):
        assert main(["import", "bts", str(file), str(tmp_path / "out"), option, "x"]) == 2
        assert f"{option}: got x, expected it for kyn only" in capsys.readouterr().err
