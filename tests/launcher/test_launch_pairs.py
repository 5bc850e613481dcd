"""`launch.py infer --pairs`: many pairs in one process."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bundle_runs import ROOT
from launch_fixtures import command, installed, random_weights  # noqa: F401  fixtures
from scripts import InputError, OutputError, PairDataset, PairRun, RunManifest, listed_pairs
from scripts.data.pair_list import ListedPair
from scripts.io.folder_lock import hold_folder, leave_folder
from warm_python import warm_python

SECONDS_TO_WAIT = 120


@pytest.fixture
def pairs(dataset: Path, tmp_path: Path) -> Path:
    """The pairs of three phantoms, a folder each."""
    for name, phantom in (("a", 3), ("b", 6), ("c", 8)):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for view in ("frontal", "lateral"):
            file = dataset / f"phantom_{phantom}_{view}.nii.gz"
            shutil.copyfile(file, tmp_path / "pairs" / name / f"{view}.nii.gz")
    return tmp_path / "pairs"


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "pairs.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_each_pair_gets_the_files_of_infer_and_a_broken_one_is_listed_and_made_later(
    command, random_weights, pairs: Path, tmp_path: Path, capfd
):
    whole, output = pairs / "b" / "lateral.nii.gz", tmp_path / "out"
    shutil.move(whole, tmp_path / "kept")
    (pairs / "b" / "lateral.png").write_text("no image")
    options = ["--weights", random_weights, "--device", "cpu"]
    assert command("infer", "--pairs", pairs, *options, "--output", output) == 1
    printed, rows = capfd.readouterr(), rows_of(output)
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "b": "failed", "c": "done"}
    assert "field 'lateral' cannot be read as an image" in rows["b"]["reason"]
    assert "1 of 3 pairs failed" in printed.err and f"\nb: {pairs}/b/lateral.png: field 'lateral'" in printed.err
    assert "[1 of 3] a done" in printed.out and " left" in printed.out
    assert not (output / "b").exists()

    single = tmp_path / "single"
    pair = [part for view in ("frontal", "lateral") for part in (f"--{view}", pairs / "c" / f"{view}.nii.gz")]
    assert command("infer", *pair, *options, "--output", single) == 0
    assert {path.name for path in single.iterdir()} == {path.name for path in (output / "c").iterdir()}
    assert (single / "ct.nii.gz").read_bytes() == (output / "c" / "ct.nii.gz").read_bytes()
    runs = [json.loads((folder / "run.json").read_text()) for folder in (single, output / "c")]
    assert all(runs[0][field] == runs[1][field] for field in ("weights", "inputs", "settings", "versions"))

    (pairs / "b" / "lateral.png").unlink()
    shutil.move(tmp_path / "kept", whole)
    kept = (output / "a" / "ct.nii.gz").stat().st_mtime_ns
    assert command("infer", "--pairs", pairs, *options, "--output", output) == 0
    rows = rows_of(output)
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done before", "b": "done", "c": "done before"}
    assert (output / "a" / "ct.nii.gz").stat().st_mtime_ns == kept
    assert float(rows["a"]["seconds"]) > 0 and rows["a"]["reason"] == ""


def ended(folder: Path) -> bool:
    """Whether nobody uses a folder."""
    try:
        hold_folder(str(folder))
    except OutputError:
        return False
    leave_folder(str(folder))
    return True


def wait_for(condition) -> None:
    end = time.monotonic() + SECONDS_TO_WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_run_that_is_killed_while_it_writes_leaves_whole_results_and_goes_on_after_them(
    overlay, random_weights, pairs: Path, tmp_path: Path
):
    output = tmp_path / "out"
    configs = ["bundle/configs/inference.json", "bundle/configs/pairs.json", str(overlay)]
    line = [warm_python(), "-m", "monai.bundle", "run", "run", "--config_file", str(configs), "--bundle_root", "bundle"]
    line += ["--pairs", pairs, "--weights", random_weights, "--output_dir", output]
    run = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(output.glob(".unfinished-*-b")) or run.poll() is not None)
    run.kill()
    run.wait()
    wait_for(lambda: ended(output))
    assert (output / "a" / "run.json").is_file() and not (output / "b").exists()
    assert list(output.glob(".unfinished-*-b"))
    assert subprocess.run(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    assert [row["status"] for row in rows_of(output).values()] == ["done before", "done", "done"]
    assert {path.name for path in output.iterdir()} == {"a", "b", "c", "pairs.csv", "in_use.lock"}


def test_a_folder_of_other_files_is_never_replaced_by_a_result(pairs: Path, random_weights, tmp_path: Path):
    """As where the pairs' own folder is the output."""
    manifest = RunManifest(str(random_weights), "cpu", {}, {})

    def is_not_called(record):
        raise AssertionError

    records = PairDataset(listed_pairs(str(pairs)), is_not_called, str(pairs), manifest)
    for record in (records[number] for number in range(3)):
        assert "holds other files than results" in record["obstacle"] and "frontal.nii.gz" in record["obstacle"]


def test_a_pair_and_a_folder_are_not_asked_for_at_once(command, tmp_path: Path, capfd):
    for options in ([], ["--pairs", tmp_path, "--frontal", "a.png"], ["--pairs", tmp_path, "--lateral", "b.png"]):
        assert command("infer", *options, "--output", tmp_path / "out") == 1
        assert "infer needs --frontal and --lateral, or one of them, or --pairs" in capfd.readouterr().err
    assert command("infer", "--pairs", tmp_path / "nothing", "--output", tmp_path / "out") == 1
    assert "nothing: no such file or folder" in capfd.readouterr().err


def test_a_failure_of_what_comes_after_the_network_is_one_pairs(tmp_path: Path):
    """The evaluator's own iteration raises for the second of three records."""

    class Engine:
        def _iteration(self, engine, batch):
            if batch["name"] == ["b"]:
                raise RuntimeError("postprocessing") from InputError("the body cannot be measured.")
            return {}

    run = PairRun(str(tmp_path), [ListedPair(name, {}) for name in "abc"])
    for name in "abc":
        run(Engine(), {"name": [name]})
    with pytest.raises(InputError, match="1 of 3 pairs failed.*\nb: the body cannot be measured."):
        run.finish()
    assert [row["status"] for row in rows_of(tmp_path).values()] == ["done", "failed", "done"]
