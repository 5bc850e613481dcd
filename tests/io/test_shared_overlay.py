"""What lies beside weights describes them and runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from bundle_runs import OVERLAY, ROOT
from scripts.io.shared_overlay import SHARED_IDS, read_shared_overlay, shared_part


def written(folder: Path, content: Any) -> Path:
    path = folder / "overlay.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["tiny", "demo/all", "weights/all"])
def test_what_the_bundles_own_overlays_share_is_read_as_it_stands(name: str, tmp_path: Path):
    config = json.loads((ROOT / "bundle" / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    shared = shared_part(config)
    assert read_shared_overlay(written(tmp_path, shared)) == shared
    assert all(id_.split("#")[0] in SHARED_IDS for id_ in shared)


def test_a_network_and_a_geometry_may_be_replaced_whole(tmp_path: Path):
    """By the ids of train.json, whose texts are references among the shared ones and names of its own classes."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundle" / "configs" / "train.json"))
    network = {key: value for key, value in parser["network_def"].items() if key != "trained_stage"}
    content = {
        "geometry": parser["geometry"],
        "network_def": network,
        "radiograph_orientation": parser["radiograph_orientation"],
    }
    assert read_shared_overlay(written(tmp_path, content)) == content


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    path = tmp_path / "overlay.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(shared_part(OVERLAY)).encode())
    assert read_shared_overlay(path) == shared_part(OVERLAY)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"xray_scale": "$__import__('os').abort()"}, "xray_scale"),
        ({"network_def#hidden_size": "$exit(3)"}, "network_def#hidden_size"),
        ({"geometry": {"fov_mm": ["$1"]}}, "geometry#fov_mm#0"),
        ({"geometry#fov_mm": "%/etc/passwd::a"}, "geometry#fov_mm"),
        ({"geometry#fov_mm": "@imports"}, "geometry#fov_mm"),
        ({"network_def": {"_target_": "os.system", "command": "id"}}, "network_def#_target_"),
        ({"network_def#_target_": "subprocess.run"}, "network_def#_target_"),
        (
            {"network_def": {"x": {"_target_": "scripts.BiplanarGeometry", "_requires_": "$1"}}},
            "network_def#x#_requires_",
        ),
        ({"network_def#_disabled_": "$1"}, "network_def#_disabled_"),
        ({"network_def#_mode_": "debug"}, "network_def#_mode_"),
        ({"imports": ["$import os"]}, "imports"),
        ({"run": ["$1"]}, "run"),
        ({"weights": "other.pt"}, "weights"),
        ({"geometry::fov_mm": 1}, "geometry::fov_mm"),
        ({"geometry#fov_mm\n": 1}, "geometry#fov_mm"),
        ({"~geometry": None}, "~geometry"),
        ({"geometry#views": ["PA", "../x"]}, "geometry#views#1"),
        ([1], "no object"),
        ("not json", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"a": "' + "x" * 2**20 + '"}', "no object"),
    ],
)
def test_what_would_be_run_or_is_not_shared_is_refused_by_name(content: Any, named: str, tmp_path: Path):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match="overlay.json") as refused:
        read_shared_overlay(path)
    assert named in str(refused.value)


def test_a_file_of_other_bytes_or_none_is_refused(tmp_path: Path):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_shared_overlay(path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="bytes.json"):
        read_shared_overlay(tmp_path / "bytes.json")
