"""What goes to the Hugging Face Hub, and that nothing does unless it is asked for and may."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from scripts import InputError, OutputError, package, publish
from scripts.io.nifti import add_json
from scripts.io.own_paths import check_no_own_paths

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs requirements-publish.txt")

from monai.bundle import download, push_to_hf_hub  # noqa: E402

from hub_server import Hub, hub  # noqa: E402

REPOSITORY = "somebody/chest"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny bundle that is published, and that a test may change."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "source" / package.NAME)
    monkeypatch.setattr(package, "BUNDLE", folder)
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose token is that of the user; nothing of the user's own is read."""
    with hub() as served:
        files = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", served.token)
        yield served


def write_atlas(bundle: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    add_json(image, {"records": [{"name": "a", "licence": "CC BY 3.0"}]})
    nibabel.save(image, bundle / package.ATLAS)


def listed(printed: str) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file that was printed."""
    rows = re.findall(r"^([0-9a-f]{64})  +(\d+)  (\S+)$", printed, re.M)
    return {name: (int(size), sha256) for sha256, size, name in rows}


def test_what_arrives_is_what_is_listed_and_is_never_written_over(bundle: Path, server: Hub, capsys):
    (bundle / "models" / "stage3_best.pth").write_text("of somebody's own")
    write_atlas(bundle)
    there = {".gitattributes": b"*.pt filter=lfs", "models/model_views.json": b"of other weights"}
    server.files[REPOSITORY], server.tags[REPOSITORY] = dict(there), ["0.0.1"]
    publish.publish(REPOSITORY)
    dry = capsys.readouterr().out
    assert server.made == [] and dry.endswith(f"Nothing has been sent. --yes uploads to {REPOSITORY}.\n")
    publish.publish(REPOSITORY, really=True)
    arrived, said = dict(server.files[REPOSITORY]), capsys.readouterr().out
    found = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in arrived.items()}
    assert listed(dry) == listed(said) == {name: each for name, each in found.items() if name not in there}
    for name in set(listed(dry)) - {"README.md"}:
        assert arrived[name] == (bundle / name).read_bytes()
    assert {"models/model.pt", "models/mean_volume.nii.gz"} < set(listed(dry))
    assert not {package.ATLAS, "models/stage3_best.pth"} & set(arrived)
    assert f"Left out, since it holds patients' volumes: {package.ATLAS}." in dry
    assert "also holds, of no part of this version: models/model_views.json\n" in said
    assert server.objects and all(len(content) > 100_000 for content in server.objects.values())
    assert server.tags[REPOSITORY] == ["0.0.1", package.bundle_version()]
    (bundle / "LICENSE").write_text("another")
    with pytest.raises(OutputError, match="version .* is there already"):
        publish.publish(REPOSITORY, really=True, public=True)
    assert server.files[REPOSITORY] == arrived
    assert [each["visibility"] for each in server.made] == ["private", "public"]


def test_without_a_token_or_with_a_wrong_one_nothing_arrives(bundle: Path, server: Hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(OutputError, match=rf"^{server.address}, {REPOSITORY}: .*401"):
        publish.publish(REPOSITORY, really=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="1 missing"):
        publish.publish(REPOSITORY, really=True)
    assert "Missing: a token of the hub" in capsys.readouterr().out
    assert server.files == {} and server.objects == {}


def test_what_is_missing_is_named_and_the_rest_listed(bundle: Path, server: Hub, capsys):
    (bundle / "docs" / "data_license.txt").unlink()
    (bundle / "models" / "model.pt").unlink()
    log = bundle / "models" / "model_training.json"
    log.write_text(json.dumps({**json.loads(log.read_text()), "training": []}))
    assert publish.main([REPOSITORY, "--yes"]) == 1
    printed = capsys.readouterr()
    assert re.findall(r"^Missing: (\S+):", printed.out, re.M) == [
        str(bundle / "docs" / "data_license.txt"),
        str(bundle / "models" / "model.pt"),
        str(log),
    ]
    assert "LICENSE" in listed(printed.out) and "3 missing" in printed.err
    assert server.made == []


@pytest.mark.parametrize("section", ["training", "validation"])
def test_weights_of_a_patient_who_may_not_be_shared_go_nowhere(bundle: Path, server: Hub, section: str):
    log = bundle / "models" / "model_training.json"
    content = json.loads(log.read_text())
    log.write_text(json.dumps({**content, section: [*content[section], {"ct": "b.nii.gz", "licence": "CC BY-NC 3.0"}]}))
    with pytest.raises(InputError, match="derives from record 'b.nii.gz' of licence 'CC BY-NC 3.0'"):
        publish.publish(REPOSITORY, really=True)
    assert server.made == []


def test_no_path_of_a_machine_goes_out(bundle: Path, server: Hub, tmp_path: Path):
    """Nor into an archive: in JSON of any machine, elsewhere of the bundle's folder and the user's home."""
    log, weights = bundle / "models" / "model_training.json", bundle / "models" / "model.pt"
    content = json.loads(log.read_text())
    for path in ("/data/miller_anna/ct.nii.gz", "D:\\Miller\\ct.nii.gz"):
        log.write_text(json.dumps({**content, "remarks": [path]}))
        with pytest.raises(InputError, match="model_training.json: holds the path .*iller"):
            publish.publish(REPOSITORY, really=True)
    log.write_text(json.dumps(content))
    with weights.open("ab") as file:
        file.write(f"{bundle}/a.pth".encode())
    with pytest.raises(InputError, match=f"model.pt: holds the path '{bundle}/'"):
        package.write_package(tmp_path / "archive")
    assert server.made == [] and not (tmp_path / "archive").exists()


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.nii.gz"])
def test_the_users_home_is_found_in_any_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/anna"))
    for own, is_refused in {
        "from /home/anna/a.nii.gz": True,
        "from /home/annabel/a.nii.gz": False,
        "/ or a/b": False,
    }.items():
        content = json.dumps([own]).encode()
        content = gzip.compress(content) if name.endswith(".gz") else content
        with pytest.raises(InputError, match="/home/anna/") if is_refused else nullcontext():
            check_no_own_paths(name, content, tmp_path)


@pytest.mark.parametrize("name", ["alone", "a/b/c", "../b", "a/..", "a b/c", "a/b\n"])
def test_a_name_that_is_no_repository_is_refused(name: str):
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        publish.publish(name)


def test_the_card_has_its_front_matter_and_its_links_lead_somewhere(bundle: Path):
    page = (bundle / publish.PAGE).read_text(encoding="utf-8")
    card = huggingface_hub.ModelCard(publish.card_of(page))
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "monai")
    assert "Apache License" in (bundle / "LICENSE").read_text() and card.data.pipeline_tag == "image-to-3d"
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^()\s]+)\)", card.text) if "://" not in link]
    assert all((bundle / link).exists() for link in links) and "docs/install.md" in links
    assert re.findall(r"^#+ .+$", card.text, re.M) == re.findall(r"^#+ .+$", page, re.M)


def test_monais_own_upload_and_download_take_the_bundle(bundle: Path, server: Hub, tmp_path: Path, monkeypatch):
    """Its card gets one front matter, since the page has none of its own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    push_to_hf_hub(REPOSITORY, bundle.name, str(bundle.parent), token=server.token, version="latest")
    card = server.files[REPOSITORY]["README.md"].decode()
    assert card.count("---\n") == 2 and yaml.safe_load(card.split("---\n")[1])["license"] == "apache-2.0"
    download(bundle.name, bundle_dir=str(tmp_path), source="huggingface_hub", repo=REPOSITORY, version="latest")
    weights = tmp_path / bundle.name / "models" / "model.pt"
    assert weights.read_bytes() == (bundle / "models" / "model.pt").read_bytes()
