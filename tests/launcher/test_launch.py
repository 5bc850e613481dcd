"""The launcher's arguments, and its verbs as a user sees them."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import pytest

from bundle_runs import ROOT, pasted
from dicom_node.__main__ import parsed
from dicom_node.peers import sender, target
from launch_fixtures import (  # noqa: F401  fixtures
    cold_command,
    command,
    environments,
    folder_of_one,
    installed,
    lines,
    next_arguments,
    option_of,
    pair_options,
    places,
    random_weights,
    weights,
)
from launcher import verbs
from launcher.from_bundle import config_text
from phantoms import phantom
from scripts import demo_ct
from scripts.io.image_writer import cube_affine, write_ct
from unwritable import full_disk, on_posix

NODE = ["--aet", "CT", "--port", "4242", "--allow", "A", "B=127.0.0.1", "--store", "PACS@127.0.0.1:104", "--queue", "q"]
TINY = ROOT / "bundle" / "configs" / "tiny.json"


def test_it_needs_nothing_but_python():
    names = set()
    for source in (ROOT / "launch.py", *(ROOT / "launcher").glob("*.py")):
        tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 10))
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "launcher"}


@on_posix
def test_it_starts_anywhere_by_any_python_that_imports_nothing_from_the_folder_of_a_script(tmp_path: Path):
    """As under PYTHONSAFEPATH and in the Python that is unpacked from an archive on Windows; by a link to it too."""
    (tmp_path / "link.py").symlink_to(ROOT / "launch.py")
    for script in (ROOT / "launch.py", tmp_path / "link.py"):
        line = [sys.executable, "-I", "-S", script, "evaluate", "--help"]
        assert "--protocol" in subprocess.check_output(line, cwd=tmp_path, encoding="utf-8")


@on_posix
def test_a_relative_path_starts_where_the_launcher_was_called(
    command, lines, dataset: Path, tmp_path: Path, monkeypatch
):
    """The runs themselves start at the repository root."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "overlay.json").write_text('{"vgg": 0}')
    assert command("train", "--overlay", "overlay.json", "--dataset_dir", "data", "--output", "out") == 0
    for line in lines():
        assert option_of(line, "dataset_dir") == f"{tmp_path}/data" and option_of(line, "ckpt_dir") == f"{tmp_path}/out"
        assert str(tmp_path / "overlay.json") in ast.literal_eval(option_of(line, "config_file"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["train", "--stage", "4"],
        ["infer", "--frontal", "a"],
        ["evaluate"],
        ["evaluate", "--dataset_dir", "d", "--section", "training"],
        ["evaluate", "--dataset_dir", "d", "--protocol", "lpips"],
        ["evaluate", "--dataset_dir", "d", "--protocol", "x2ct", "--robustness"],
        ["demo", "-k"],
        ["demo", "--train", "--no-train"],
        ["train", "--tiny", "--overlay", "a.json"],
        ["datalist"],
        ["package"],
        ["publish"],
        ["datalist", "d", "--check", "--overwrite"],
        ["label"],
        ["node"],
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_work(command, arguments: list[str], capfd):
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capfd.readouterr().err


def test_each_verb_installs_what_it_needs(command, monkeypatch: pytest.MonkeyPatch):
    wanted = []
    monkeypatch.setattr(
        environments, "install", lambda for_development: wanted.append("development" if for_development else "bundle")
    )
    for further in ("label", "node", "page", "publish"):
        monkeypatch.setattr(environments, f"install_{further}", lambda name=further: wanted.append(name))
    node = ["node", *NODE]
    for verb, *options in (["train"], ["label", "--studies", "d"], node, ["test", "--without-label"], ["test"]):
        monkeypatch.setattr(verbs, verb, lambda arguments: None)
        command(verb, *options)
    of_tests = ["development", "node", "publish", "development", "node", "publish", "label"]
    assert wanted == ["bundle", "bundle", "label", "bundle", "node", *of_tests]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("infer", ""), ("node infer", "node"), ("label node", "label node"), ("publish page", "page publish")],
)
def test_install_makes_what_verbs_need_and_runs_none(command, lines, monkeypatch, asked: str, expected: str):
    wanted = []
    for further in ("label", "node", "page", "publish"):
        monkeypatch.setattr(environments, f"install_{further}", lambda name=further: wanted.append(name))
    assert command("install", *asked.split()) == 0
    assert sorted(wanted) == expected.split() and lines() == []


@on_posix
def test_the_whole_suite_is_run_by_two_processes_and_a_part_as_one_asks_for_it(command, lines):
    for options in ([], ["--without-label"], ["tests/test_docs.py", "-k", "links"]):
        assert command("test", *options) == 0
    two = ["-m", "pytest", "--numprocesses", "2", "--dist", "worksteal", "tests"]
    part = ["-m", "pytest", "tests/test_docs.py", "-k", "links"]
    assert lines() == [two, [*two[:2], "--without-label", *two[2:]], part]


def test_a_test_that_fails_in_one_of_two_processes_fails_the_verb(command, tmp_path: Path, capfd):
    (tmp_path / "test_numbers.py").write_text("def test_one(): pass\ndef test_two(): assert 1 == 2\n")
    assert command("test", "--numprocesses", "2", tmp_path) == 1
    output = capfd.readouterr()
    assert "assert 1 == 2" in output.out and "1 failed, 1 passed" in output.out
    assert output.err == "\nlaunch.py: error: tests failed; see above.\n"


def test_label_refuses_studies_that_are_no_folder(command, tmp_path: Path, capfd):
    assert command("label", "--studies", tmp_path / "nowhere") == 1
    assert capfd.readouterr().err == f"\nlaunch.py: error: --studies {tmp_path}/nowhere: no such folder.\n"


@on_posix
def test_label_starts_a_server_of_what_it_was_given(command, lines, monkeypatch, tmp_path: Path, capfd):
    monkeypatch.setattr(places, "LABEL_PYTHON", places.PYTHON)
    assert command("label", "--studies", tmp_path, "--weights", tmp_path / "model.pt", "--port", "81") == 0
    message, printed = capfd.readouterr().out.strip().split("\n\n$ ")
    assert message.startswith(f"{tmp_path}/model.pt: no such weights.")
    line, loading = printed.splitlines()
    assert loading.startswith("Loading MONAI Label")
    assert [shlex.split(line)[1:]] == lines()
    options = {name: option_of(lines()[0], name) for name in ("studies", "host", "port")}
    assert options == {"studies": str(tmp_path), "host": "127.0.0.1", "port": "81"}
    assert f"--conf weights {tmp_path}/model.pt" in line


@on_posix
def test_node_starts_a_node_of_what_it_was_given(command, lines, tmp_path: Path):
    """The line that is started is one that the node's own command takes."""
    weights = tmp_path / "model.pt"
    weights.touch()
    assert command("node", *NODE, "--weights", weights, "--quiet", "5") == 0
    (line,) = lines()
    assert line[:2] == ["-m", "dicom_node"]
    given = parsed(line[2:])
    assert (given.aet, given.host, given.port, given.quiet) == ("CT", "127.0.0.1", 4242, 5.0)
    assert given.allow == [sender("A"), sender("B=127.0.0.1")]
    assert (given.store, given.weights) == (target("PACS@127.0.0.1:104"), weights)


@on_posix
def test_a_full_disk_ends_infer_with_one_error_that_names_the_file(cold_command, weights, dataset, tmp_path, capfd):
    with full_disk(4096):
        assert cold_command("infer", *pair_options(dataset), "--weights", weights, "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err.split("launch.py: error: ")[1]
    assert error.startswith(f"{tmp_path}/output/ct.nii.gz: cannot be written (File too large); free the place or")
    assert "Traceback" not in error
    assert {path.name for path in (tmp_path / "output").iterdir()} <= {"error.log"}


def test_the_printed_line_is_read_by_a_shell_as_the_line_that_runs():
    for line in (
        ["python", "-m", "monai.bundle", "--config_file", "['a.json', 'b.json']", "--output_dir", "/tmp/a b"],
        ["python", "--config_file", "['a.json', \"it's.json\"]"],
        ["python", "--config_file", "['$HOME.json', '`a`.json']"],
    ):
        assert shlex.split(config_text.as_typed(line)) == line


@pytest.mark.parametrize("given", ["frontal", "lateral"])
def test_radiographs_that_are_no_files_are_refused_at_once(
    command, weights, dataset, tmp_path: Path, given: str, capfd
):
    radiographs = {view: dataset / f"phantom_6_{view}.nii.gz" for view in ("frontal", "lateral")}
    radiographs[given] = tmp_path / "nowhere.png"
    options = [part for view, path in radiographs.items() for part in (f"--{view}", path)]
    assert command("infer", *options, "--weights", weights, "--output", tmp_path / "output") == 1
    output = capfd.readouterr()
    assert output.err == f"\nlaunch.py: error: --{given} {tmp_path}/nowhere.png: no such file.\n"
    assert "$ python" not in output.out
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("verb", ["infer", "evaluate"])
def test_missing_weights_are_refused_at_once_with_the_command_that_makes_them(command, dataset, tmp_path, verb, capfd):
    radiographs = ["--frontal", dataset / "phantom_6_frontal.nii.gz", "--lateral", dataset / "phantom_6_lateral.nii.gz"]
    own = radiographs if verb == "infer" else ["--dataset_dir", dataset]
    assert command(verb, *own, "--weights", tmp_path / "nowhere.pth", "--output", tmp_path / "output") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"\nlaunch.py: error: {tmp_path}/nowhere.pth: no such weights.")
    assert "python launch.py train" in error
    assert not (tmp_path / "output").exists()


def test_an_output_that_is_a_file_is_one_clear_error(command, dataset: Path, tmp_path: Path, capfd):
    (tmp_path / "taken").write_text("a file")
    assert command("train", "--dataset_dir", dataset, "--output", tmp_path / "taken") == 1
    error = capfd.readouterr().err
    assert error.startswith("\nlaunch.py: error: ")
    assert str(tmp_path / "taken") in error
    assert (tmp_path / "taken").read_text() == "a file"


@on_posix
def test_infer_writes_what_is_asked_for_as_the_line_does_that_it_prints(
    cold_command, weights, dataset, tmp_path, capfd
):
    """A CT and a DICOM series; until they are there nothing is said but by the bundle."""
    folder = tmp_path / "a folder"
    options = ["--weights", weights, "--output", folder, "--dicom", "--device", "cpu"]
    assert cold_command("infer", *pair_options(dataset), *options) == 0
    assert nibabel.load(folder / "ct.nii.gz").shape == (64, 64, 64)
    assert sorted(path.name for path in folder.iterdir()) == [
        "ct.nii.gz",
        "ct_dicom",
        "measurements.json",
        "preview.png",
        "run.json",
        "view.html",
    ]
    assert len(list((folder / "ct_dicom").glob("*.dcm"))) == 64
    output = capfd.readouterr()
    assert "\nLoading PyTorch and MONAI ...\n" in output.out and re.search(r"^Loaded in \d+ s\.$", output.err, re.M)
    assert "warning" not in output.err.lower() and "eval()" not in output.err
    assert "ct_dicom" in output.out.splitlines()[-1] and "Research use only" in output.out
    (line,) = (line[2:] for line in output.out.splitlines() if line.startswith("$ "))
    (folder / "ct.nii.gz").unlink()
    assert pasted(line).returncode == 0
    assert (folder / "ct.nii.gz").is_file()


def test_datalist_writes_one_from_the_bundles_folder_and_never_over_another(command, tmp_path: Path, capfd):
    write_ct(str(tmp_path / "a folder" / "p1.nii.gz"), phantom(8, 0.0), cube_affine(8, 360.0))
    assert command("datalist", tmp_path / "a folder") == 0
    written = (tmp_path / "a folder" / "datalist.json").read_text()
    assert json.loads(written)["training"] == [{"ct": "p1.nii.gz"}]
    assert next_arguments(capfd.readouterr().out) == ["datalist", "--check", str(tmp_path / "a folder")]
    assert command("datalist", tmp_path / "a folder") == 1
    error = capfd.readouterr().err
    assert f"error: {tmp_path}/a folder/datalist.json: is there already" in error
    assert error.endswith("launch.py: error: the command above ended with status 1; its message is above.\n")
    assert (tmp_path / "a folder" / "datalist.json").read_text() == written


def test_an_uncertainty_that_the_weights_have_no_table_for_ends_infer_with_one_error(
    command, weights: Path, dataset: Path, tmp_path: Path, capfd
):
    assert (
        command("infer", *pair_options(dataset), "--weights", weights, "--output", tmp_path / "output", "--uncertainty")
        == 1
    )
    table = weights.with_name(f"{weights.stem}_uncertainty.json")
    assert f"launch.py: error: {table}: no such file, expected one next to the weights." in capfd.readouterr().err
    assert not (tmp_path / "output" / "ct.nii.gz").exists()


def test_infer_of_one_radiograph_hands_on_that_there_is_no_other(command, lines, random_weights, dataset, capfd):  # noqa: F811
    one = ["--lateral", dataset / "phantom_6_lateral.nii.gz", "--weights", random_weights, "--output", dataset / "out"]
    assert command("infer", *one, "--uncertainty") == 1
    assert "--uncertainty needs --frontal and --lateral" in capfd.readouterr().err and not lines()
    assert command("infer", *one) == 0
    assert option_of(lines()[-1], "frontal") == "$None" and option_of(lines()[-1], "lateral") == str(one[1])


def test_a_training_with_view_dropout_hands_it_to_each_stage_and_to_the_next_line(
    command, lines, dataset, tmp_path, capfd
):
    chosen = ["--tiny", "--view_dropout", "0.5", "--dataset_dir", dataset, "--output", tmp_path / "output"]
    assert command("train", "--stage", "1", *chosen) == 0
    assert option_of(lines()[-1], "view_dropout") == "0.5"
    following = next_arguments(capfd.readouterr().out)
    assert following[following.index("--view_dropout") + 1] == "0.5"
    assert command("train", *chosen[:2], "1.5", *chosen[3:]) == 1
    assert "--view_dropout 1.5: expected a probability" in capfd.readouterr().err


def test_a_patient_can_be_copied_only_into_a_dicom_series(command, weights: Path, dataset: Path, tmp_path: Path, capfd):
    assert (
        command(
            "infer", *pair_options(dataset), "--weights", weights, "--output", tmp_path / "output", "--copy-patient"
        )
        == 1
    )
    assert capfd.readouterr().err.startswith("\nlaunch.py: error: --copy-patient needs --dicom")
    assert not (tmp_path / "output").exists()


def test_a_bundles_error_ends_the_launcher_with_its_message(command, dataset: Path, tmp_path: Path, capfd):
    """Stage 2 of an empty folder: the file, what was expected and the command; the traceback is in the log alone."""
    assert command("train", "--stage", "2", "--tiny", "--dataset_dir", dataset, "--output", tmp_path / "output") == 1
    output = capfd.readouterr()
    error = output.err[output.err.index("launch.py: error:") :]
    assert error.startswith(f"launch.py: error: {tmp_path}/output/stage1_best.pth: no such checkpoint; expected")
    made_by = shlex.split(re.search(r"It is made by: (.*)", error)[1])
    assert ast.literal_eval(option_of(made_by, "config_file")) == [
        f"bundle/configs/{n}.json" for n in ("train", "tiny")
    ]
    assert option_of(made_by, "dataset_dir") == str(dataset)
    assert error.endswith(f"(The whole traceback is in {tmp_path}/output/error.log.)\n")
    assert "Traceback" not in output.err
    assert "CheckpointError" in (tmp_path / "output" / "error.log").read_text()
    assert not list((tmp_path / "output").rglob("*.pth"))


def test_the_evaluations_table_shows_every_group_and_method(command, random_weights, dataset: Path, tmp_path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output"]
    assert command("evaluate", "--dataset_dir", dataset, *options) == 0
    printed = capfd.readouterr().out.splitlines()
    rows = [line for line in printed if line.startswith(("with radiographs", "without radiographs"))]
    for name in ("stage 1", "stage 2", "stage 3", "upsampled stage 2"):
        assert sum(f"³  {name} " in row for row in rows) == 2  # one for each group
    assert sum("³  upsampled stage 1 " in row for row in rows) == 4  # and each later size
    for name in ("mean volume", "nearest training patient"):
        assert sum(f"³  {name} " in row for row in rows) == 6  # and each size
    assert (tmp_path / "output" / "metrics.csv").is_file()


def test_what_a_fetch_would_bring_is_said_by_the_sizes_of_the_manifest(command, tmp_path: Path, capfd):
    assert command("fetch", "LIDC-IDRI", "--patients", "10", "--dir", tmp_path / "d", "--dry-run") == 0
    manifest = json.loads((ROOT / "bundle" / "configs" / "lidc_idri.json").read_text(encoding="utf-8"))
    size = sum(patient["ct"]["bytes"] for patient in manifest["patients"][:10])
    files = sum(patient["ct"]["objects"] for patient in manifest["patients"][:10])
    assert f"10 patients, {files} files, {size / 1e9:.2f} GB. Nothing is fetched." in capfd.readouterr().out
    assert not (tmp_path / "d").exists()


def test_robustness_is_told_for_a_folder_without_a_datalist(command, random_weights, folder_of_one, tmp_path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output", "--robustness", "--stop_after", "1"]
    assert command("evaluate", "--dataset_dir", folder_of_one, *options) == 0
    output = capfd.readouterr().out
    assert "each of the 1 CTs found there is a case" in output
    rows = output.split("PSNR dB  change\n")[1].splitlines()
    assert re.fullmatch(r"nominal +1 +\d+\.\d\d +0\.00", rows[0])
    for start in (
        "patient rotated about the body axis, in both views",
        "source farther away",
        "Poisson noise",
        "gamma",
    ):
        assert sum(row.startswith(start) for row in rows) in (3, 4)
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["robustness.csv", "robustness.json", "robustness.png"]


@pytest.mark.slow
def test_what_is_kept_of_lesions_is_told_by_diameter(command, random_weights, tmp_path: Path, capfd):
    shutil.copyfile(demo_ct(), tmp_path / "chest.nii.gz")
    options = ["--weights", random_weights, "--output", tmp_path / "output", "--lesions"]
    assert command("evaluate", "--dataset_dir", tmp_path, *options) == 0
    output = capfd.readouterr().out
    methods = ["stage 1", "stage 2", "stage 3", "ground truth at 16³", "ground truth at 32³", "ground truth"]
    for heading in ("contrast that is retained", "detectability", "false lesions a patient"):
        head, *rows = output.split(f"\n{heading} ")[1].splitlines()[: len(methods) + 1]
        assert head.split("mm")[0].strip() == "6"
        assert [re.split(r" {2,}", row)[0] for row in rows] == methods
    assert re.search(r"Smallest visible: .*, ground truth \d+ mm\.\n", output)
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["lesions.csv", "lesions.json", "lesions.png"]


def test_the_protocol_of_others_has_a_table_of_its_own(command, random_weights, folder_of_one, tmp_path: Path, capfd):
    options = ["--weights", random_weights, "--output", tmp_path / "output", "--protocol", "x2ct"]
    assert command("evaluate", "--dataset_dir", folder_of_one, *options) == 0
    output = capfd.readouterr().out
    rows = output.split("SSIM\n")[1].split("By the protocol of X2CT-GAN")[0].splitlines()
    report = json.loads((tmp_path / "output" / "protocol_x2ct.json").read_text(encoding="utf-8"))
    assert len(rows) == len(report["summary"]) > 1
    for row, entry in zip(rows, report["summary"]):
        scores = [f"{entry[name]['mean']:.2f}" for name in ("psnr_db", "psnr_3d_db")]
        assert row.split() == [entry["group"], *entry["method"].split(), "1", *scores, f"{entry['ssim']['mean']:.3f}"]
    assert output.endswith(
        f"\nEvery case is in {tmp_path}/output/protocol_x2ct.csv; protocol_x2ct.json next to it has the definitions.\n"
    )
    written = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert written == ["protocol_x2ct.csv", "protocol_x2ct.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--datalist", "nowhere.json"], f"--datalist {Path.cwd() / 'nowhere.json'}: no such file."),
        (["--stop_after", "1"], "--stop_after needs --robustness"),
        (["--only", "frontal", "--robustness"], "--only frontal: cannot be scored by --robustness"),
        (["--lesions", "--gpus", "2"], "--gpus 2: --lesions runs in one process"),
    ],
)
def test_what_an_evaluation_cannot_do_is_refused_at_once(
    command, random_weights: Path, folder_of_one: Path, options, message: str, tmp_path: Path, capfd
):
    output = ["--output", tmp_path / "output"]
    assert command("evaluate", "--dataset_dir", folder_of_one, "--weights", random_weights, *output, *options) == 1
    assert capfd.readouterr().err.startswith(f"\nlaunch.py: error: {message}")
    assert not (tmp_path / "output").exists()


def test_package_leaves_the_archive_and_its_checksum(command, tmp_path: Path, capfd):
    assert command("package", "--output", tmp_path / "out", "--without-weights") == 0
    archive, checksum = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert archive.startswith("biplanar_xray_ct_reconstruction_v") and checksum == f"{archive}.sha256"
    assert "The archive holds no weights.\n" in capfd.readouterr().out


@on_posix
def test_page_serves_this_machine_by_the_environment_of_its_own(command, lines, tmp_path: Path, monkeypatch):
    (weights := tmp_path / "model.pt").touch()
    monkeypatch.setattr(places, "PAGE_PYTHON", places.PYTHON)
    assert command("page", "--weights", weights, "--port", "81", "--device", "cpu") == 0
    expected = ["-m", "trial_page", "--host", "127.0.0.1", "--port", "81", "--weights", str(weights), "--device", "cpu"]
    assert lines() == [expected]
    assert command("page", "--weights", weights.with_name("none.pt")) == 1 and lines() == [expected]


def test_publish_uploads_nothing_unless_that_is_asked_for(command, lines):
    for options in ([], ["--yes", "--public"]):
        assert command("publish", "--hub", "somebody/chest", *options) == 0
    assert lines() == [["-m", "scripts.publish", "somebody/chest", *options] for options in ([], ["--yes", "--public"])]


def test_a_package_that_cannot_be_written_ends_with_one_clear_error(command, tmp_path: Path, capfd):
    (tmp_path / "taken").write_text("a file")
    assert command("package", "--output", tmp_path / "taken", "--without-weights") == 1
    error = capfd.readouterr().err
    assert "\nerror: " in error and str(tmp_path / "taken") in error
    assert "Traceback" not in error
