"""The DICOM node next to a PACS, Orthanc, which sends studies and files what comes back."""

from __future__ import annotations

import json
from pathlib import Path

from dicom_peers import NODE, PATIENT, needs, orthanc, running_node, wait_for, write_pair, write_served_weights


def test_a_pacs_hands_a_study_over_and_files_the_results_in_it(tmp_path: Path):
    needs("Orthanc")
    weights, pair = write_served_weights(tmp_path / "weights"), write_pair(tmp_path / "pair")
    with orthanc(tmp_path / "pacs") as pacs, running_node(tmp_path / "queue", weights, pacs.dicom_port) as node:
        for path in pair:
            pacs.ask("/instances", path.read_bytes())
        (study,) = pacs.ask("/studies")
        known = {"AET": NODE, "Host": "127.0.0.1", "Port": node.port}
        pacs.ask("/modalities/node", json.dumps(known).encode(), "PUT")
        assert pacs.ask("/modalities/node/store", study.encode())["FailedInstancesCount"] == 0
        wait_for(lambda: "stored to" in node.log.read_text())
        assert pacs.ask("/studies") == [study]
        series = [pacs.ask(f"/series/{name}") for name in pacs.ask(f"/studies/{study}")["Series"]]
        (patient,) = [pacs.ask(f"/patients/{name}") for name in pacs.ask("/patients")]
    found = sorted((each["MainDicomTags"]["Modality"], len(each["Instances"])) for each in series)
    assert found == [("CR", 1), ("CR", 1), ("CT", 64), ("OT", 1), ("SR", 1)]
    assert patient["MainDicomTags"]["PatientID"] == PATIENT["PatientID"]
