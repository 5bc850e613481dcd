"""The learning curve: which patients a part of a split has, whose bodies it sees, and the line through its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from phantoms import phantom
from scripts.anatomy.shapes import read_shapes, read_targets, with_shapes, write_shapes
from scripts.io.image_writer import cube_affine, write_ct

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import learning_curve  # noqa: E402

SPLIT = {"training": [{"ct": f"{name}.nii.gz"} for name in "abd"], "test": [{"ct": "c.nii.gz"}]}


def test_fewer_patients_are_among_those_of_more_and_nobody_is_lost():
    for seed in range(5):
        parts = [learning_curve.part_of(SPLIT, count, seed) for count in (1, 2, 3)]
        for count, part in enumerate(parts, start=1):
            assert len(part["training"]) == count
            everybody = [*part["training"], *part[learning_curve.UNUSED]]
            assert sorted(record["ct"] for record in everybody) == ["a.nii.gz", "b.nii.gz", "d.nii.gz"]
            assert all(record in part["training"] for record in parts[count - 2]["training"] if count > 1)
        assert parts[0] == learning_curve.part_of(SPLIT, 1, seed)
    assert len({json.dumps(learning_curve.part_of(SPLIT, 1, seed)["training"]) for seed in range(5)}) > 1


def test_no_body_that_is_left_out_is_among_the_shapes(tmp_path: Path):
    """Each displacement keeps its target; those to others are not there."""
    names = ["a", "b", "d"]
    made = {name: torch.rand(2, 3, 4, 4, 4) for name in names}
    for name, displacements in made.items():
        targets = [other for other in names if other != name]
        write_shapes(str(tmp_path / f"{name}.nii.gz"), displacements, 360.0, {"targets": targets})
    records = [{"name": name} for name in ("a", "d")]
    learning_curve.write_shapes_between(records, tmp_path, tmp_path / "part", 360.0)
    assert [path.name for path in sorted((tmp_path / "part").iterdir())] == ["a.nii.gz", "d.nii.gz"]
    for name, other, place in (("a", "d", 1), ("d", "a", 0)):
        path = str(tmp_path / "part" / f"{name}.nii.gz")
        assert read_targets(path) == [other]
        torch.testing.assert_close(read_shapes(path, 360.0), made[name][[place]])
    assert len(with_shapes(records, str(tmp_path / "part"))) == 2


def test_the_line_is_found_that_the_figures_lie_on():
    figures = {count: {"x": 20.0 + 0.5 * doublings, "y": 18.0} for count, doublings in ((1, 0), (4, 2), (8, 3))}
    lines = learning_curve.lines_of(figures)
    assert lines["x"] == pytest.approx((0.5, 20.0))
    assert lines["y"] == pytest.approx((0.0, 18.0))


def test_what_more_patients_gain_is_the_difference_of_the_kept_figures(tmp_path: Path, capsys):
    for number, name in enumerate("abcd"):
        write_ct(str(tmp_path / f"{name}.nii.gz"), phantom(24, 0.05 * number), cube_affine(24, 360.0))
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    output = tmp_path / "output"
    options = ["--dataset_dir", str(tmp_path), "--split", str(tmp_path / "split.json"), "--output", str(output)]
    options += "--tiny --markdown --minutes 0.002 --methods without_shapes --patients 1 9 --deformations 1".split()
    learning_curve.main(options)
    printed = capsys.readouterr().out
    kept = {
        count: json.loads((output / f"{count}_patients_seed0" / "fold0_without_shapes_seed0.json").read_text())
        for count in (1, 3)
    }
    psnr = {count: result["test"]["c"][0]["psnr_db"] for count, result in kept.items()}
    gain = psnr[3] - psnr[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert ["without_shapes", "3 patients for 1", f"{gain:.4g}"] in rows
    (extrapolated,) = (row for row in rows if "EXTRAPOLATED to 100 patients" in row)
    doublings_of_three = 1.584962500721156
    assert float(extrapolated[2]) == pytest.approx(psnr[1] + gain / doublings_of_three * 6.643856, rel=1e-3)
    assert (output / "learning_curve.png").stat().st_size > 10_000
