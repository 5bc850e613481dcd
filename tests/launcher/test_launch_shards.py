"""Verbs in shards: each by itself, by a Dask cluster, and what the launcher refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from distributed import LocalCluster

from bundle_runs import ROOT
from launch_fixtures import command, installed, lines, option_of, places  # noqa: F401  fixtures
from launcher import workflows
from scripts import InputError, load_records
from scripts.on_dask import run_shards
from warm_python import warm_python

CHOSEN = """
import sys
shard = sys.argv[sys.argv.index("--shard") + 1]
print("working")
open(sys.argv[1] + "/" + shard.replace("/", "_of_"), "x").close()
if shard == sys.argv[2]:
    sys.exit("Traceback of much\\nlaunch.py: error: the disk is full; free it.\\nAll is lost.")
"""


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one thread each, in this process, which a client finds by its address alone."""
    chosen = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(protocol="tcp://", host="127.0.0.1", **chosen) as cluster:
        yield cluster.scheduler_address


def test_a_dask_cluster_makes_the_cubes_of_a_datalist(cluster: str, dataset: Path, overlay: Path, tmp_path: Path):
    configs = ["bundle/configs/train.json", str(overlay), "bundle/configs/preprocess.json"]
    line = [str(warm_python()), "-m", "monai.bundle", "run", "run", "--config_file", str(configs)]
    line += ["--bundle_root", "bundle", "--dataset_dir", str(dataset), "--output_dir", str(tmp_path)]
    run_shards(cluster, 2, line, str(ROOT))
    for section, count in (("training", 2), ("validation", 3), ("test", 4)):
        assert len(load_records(str(tmp_path / "datalist.json"), section)) == count


def test_each_shard_runs_once_and_one_that_fails_is_named_by_its_last_words(cluster: str, tmp_path: Path):
    line = [sys.executable, "-c", CHOSEN, str(tmp_path)]
    with pytest.raises(InputError) as caught:
        run_shards(cluster, 3, [*line, "2/3"], str(ROOT))
    said = ["1 of 3 shards failed:", "shard 2/3: the disk is full; free it.", "All is lost."]
    assert str(caught.value).split("\n") == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_of_3", "2_of_3", "3_of_3"]
    with pytest.raises(InputError, match="1 of 1 shards failed:\nshard 1/1: .*No such file"):
        run_shards(cluster, 1, [str(tmp_path / "no_program")], str(ROOT))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere://a", "127.0.0.1:port"])
def test_an_address_without_a_scheduler_is_refused(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scripts.on_dask.SECONDS_TO_ANSWER", 1)
    with pytest.raises(InputError, match=f"{address}: no Dask scheduler answers"):
        run_shards(address, 2, ["true"], str(ROOT))


def test_preprocess_makes_its_shard_and_says_what_comes_next(command, lines, dataset: Path, overlay: Path, capfd):
    output = dataset.with_name(f"{dataset.name}_cubes")
    assert command("preprocess", dataset, "--overlay", overlay, "--shard", "9/9") == 0
    (line,) = lines()
    assert (option_of(line, "shard"), option_of(line, "output_dir")) == ("9/9", str(output))
    assert "Once all shards are made: " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (["preprocess", "D", "--dask", "tcp://a:1", "--shards", "8"], ["preprocess", "D"]),
        (["evaluate", "--shards=8", "--dataset_dir", "D", "--dask=a"], ["evaluate", "--dataset_dir", "D"]),
    ],
)
def test_a_shards_command_is_this_one_without_its_cluster(line: list[str], left: list[str]):
    assert workflows.without_options(line, "--dask", "--shards") == left


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dask", "tcp://a:1"], "go together"),
        (["--shards", "3"], "go together"),
        (["--pairs", "--shard", "1/2"], "--pairs runs in one process"),
        (["--pairs", "--merge"], "--pairs runs in one process"),
        (["--lesions", "--dask", "tcp://a:1", "--shards", "3"], "--lesions runs in one process"),
    ],
)
def test_options_that_do_not_go_together_are_refused(command, tmp_path: Path, options: list[str], said: str, capfd):
    assert command("evaluate", "--dataset_dir", tmp_path, *options) == 1
    assert said in capfd.readouterr().err
