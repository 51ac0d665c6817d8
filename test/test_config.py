from dataclasses import dataclass
from typing import Literal

import pytest

from kyn_models import config


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = Inner()
    name: str | None = None


def test_fills_nested_values_and_keeps_defaults():
    outer = config.from_mapping(Outer, {"rate": 3, "inner": {"size": [4, 5]}}, "x.yaml")
    assert outer == Outer(3.0, Inner((4, 5)))
    assert config.from_mapping(Outer, config.to_mapping(outer), "again") == outer


@pytest.mark.parametrize(
    "mapping, words",
    [
        ({"rate": 1, "inner": {"sise": [1, 2]}}, "x.yaml: unknown key inner.sise"),
        ({"rate": "fast"}, "rate: got 'fast', expected float"),
        ({"rate": 1, "inner": {"mode": "c"}}, "inner.mode: got 'c'"),
        ({"rate": 1, "inner": {"size": [1]}}, "inner.size: got 1 values, expected 2"),
        ({}, "missing key rate"),
        ([1], "expected keys and values"),
    ],
)
def test_errors_name_file_and_key(mapping, words):
    with pytest.raises(ValueError) as error:
        config.from_mapping(Outer, mapping, "x.yaml")
    assert words in str(error.value) and "x.yaml" in str(error.value)


def test_load_yaml_names_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("rate: 2.5\nname: null\n")
    assert config.load_yaml(Outer, file) == Outer(2.5)
    file.write_text("rate: [")
    with pytest.raises(ValueError, match=r"c\.yaml"):
        config.load_yaml(Outer, file)
    with pytest.raises(FileNotFoundError, match="none"):
        config.load_yaml(Outer, tmp_path / "none.yaml")
