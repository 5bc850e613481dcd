"""Tracking by MLflow, `configs/mlflow.json`. What needs MLflow is skipped where it is not installed."""

from __future__ import annotations

import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow
from monai.handlers import MLFlowHandler
from monai.utils import OptionalImportError

from bundle_runs import ROOT, cause_of, read_configs, stage_configs
from small_training import Stopped, stop

TRACKED = Path("bundle/configs/mlflow.json")
HANDLERS = ("train#handlers", "validate#handlers")
INSTALLED = all(map(find_spec, ("mlflow", "sqlalchemy", "alembic")))
needs_mlflow = pytest.mark.skipif(not INSTALLED, reason="MLflow is not installed: pip install mlflow")


@pytest.fixture(autouse=True)
def local_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server that the environment names is written to."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def trackers(parser: ConfigParser) -> list[dict[str, Any]]:
    """The configs of the tracking handlers of trainer and validator."""
    found = []
    for handlers in HANDLERS:
        (tracker,) = (each for each in parser[handlers] if each["_target_"] == "MLFlowHandler")
        found.append(tracker)
    return found


def workflow(overlay: Path, dataset: Path, folder: Path) -> ConfigWorkflow:
    """A tracked training of stage 1, initialised."""
    places = {"dataset_dir": str(dataset), "ckpt_dir": str(folder), "output_dir": str(folder)}
    paths = [str(ROOT / config) for config in stage_configs(1, TRACKED, overlay)]
    run = ConfigWorkflow(paths, logging_file=False, run_id="training", bundle_root=str(ROOT / "bundle"), **places)
    run.initialize()
    return run


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_both_engines_of_every_stage_get_monais_handler_with_arguments_that_it_has(stage: int, tmp_path: Path):
    parser = read_configs(stage_configs(stage, TRACKED), resume_dir=str(tmp_path), output_dir=str(tmp_path))
    for tracker in trackers(parser):
        assert ConfigComponent(tracker).resolve_module_name() == "monai.handlers.mlflow_handler.MLFlowHandler"
        inspect.signature(MLFlowHandler).bind(**{key: value for key, value in tracker.items() if key[0] != "_"})
    assert parser.get_parsed_content("run_name") == f"stage{stage}"
    assert parser.get_parsed_content("tracking_uri") == f"sqlite:///{(tmp_path / 'mlruns.db').as_posix()}"


def test_what_a_stage_has_before_is_kept():
    alone, tracked = (read_configs(stage_configs(2, *further)) for further in ((), (TRACKED,)))
    for handlers in HANDLERS:
        assert tracked[handlers][:-1] == alone[handlers]


@pytest.mark.parametrize(("is_secondary", "is_finished"), [(False, False), (True, False), (False, True)])
def test_one_process_tracks_and_a_finished_training_gets_no_second_run(tmp_path: Path, is_secondary, is_finished):
    if is_finished:
        (tmp_path / "stage1_finished.json").write_text("{}")
    parser = read_configs(
        stage_configs(1, TRACKED), resume_dir=str(tmp_path), is_secondary_process=is_secondary, device="cpu"
    )
    assert parser.get_parsed_content("is_untracked") == (is_secondary or is_finished)
    assert all(tracker["_disabled_"] == "@is_untracked" for tracker in trackers(parser))


@pytest.mark.skipif(bool(find_spec("mlflow")), reason="MLflow is installed")
def test_without_mlflow_the_error_says_what_to_install(overlay: Path, dataset: Path, tmp_path: Path):
    run = workflow(overlay, dataset, tmp_path)
    with pytest.raises(RuntimeError) as error:
        run.run()
    assert "install mlflow" in cause_of(error.value, OptionalImportError)
    assert not list(tmp_path.glob("*.pth"))


@pytest.fixture(scope="module")
def resumed(overlay: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tracked training that has stopped in its second epoch, gone on, and been started once more."""
    folder = tmp_path_factory.mktemp("tracked")
    stopped = workflow(overlay, dataset, folder)
    trainer = stopped.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), stop)
    with pytest.raises(RuntimeError) as error:
        stopped.run()
    cause_of(error.value, Stopped)
    for _ in range(2):
        workflow(overlay, dataset, folder).run()
    return folder


@needs_mlflow
def test_a_training_that_was_stopped_goes_on_in_the_same_run_with_what_its_own_log_has(resumed: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{(resumed / 'mlruns.db').as_posix()}")
    experiment = client.get_experiment_by_name("biplanar_xray_ct_reconstruction")
    (run,) = client.search_runs(experiment.experiment_id)
    assert (run.info.run_name, run.info.status) == ("stage1", "FINISHED")
    assert {name: run.data.params[name] for name in ("seed", "learning_rate", "max_epochs")} == {
        "seed": "0",
        "learning_rate": "0.01",
        "max_epochs": "2",
    }
    own = [json.loads(line) for line in (resumed / "stage1_epochs.jsonl").read_text().splitlines()]
    for name in ("loss", "l1", "ssim", "psnr_db"):
        history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
        assert history == pytest.approx({line["epoch"]: line[name] for line in own})
    for name in ("step/loss", "step/l1", "step/ssim", "lr_group_0"):
        assert {each.step for each in client.get_metric_history(run.info.run_id, name)} == {1, 2, 3, 4}


@needs_mlflow
def test_neither_a_path_nor_a_name_of_a_record_is_tracked(resumed: Path, dataset: Path):
    written = (resumed / "mlruns.db").read_bytes()
    assert b"stage1" in written
    assert str(dataset).encode() not in written
    assert b"phantom_" not in written
    assert not (resumed / "mlruns").exists()
