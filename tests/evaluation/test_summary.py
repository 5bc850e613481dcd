from __future__ import annotations

import math

import pytest

from scripts.evaluation.summary import summarise
from scripts.evaluation.worst_cases import worst_cases


def row(case: str, patient: str, psnr_db: float, method: str = "stage 1", size: int = 8) -> dict:
    return {"case": case, "patient": patient, "group": "g", "size": size, "method": method, "psnr_db": psnr_db}


def test_an_interval_is_over_patients_and_not_over_their_cases():
    """Patient A has 1 and 3, patient B 4: a mean of 3, Student's 12.706 times half of their distance."""
    (entry,) = summarise([row("a", "A", 1.0), row("b", "A", 3.0), row("c", "B", 4.0)])
    assert (entry["cases"], entry["patients"]) == (3, 2)
    assert entry["psnr_db"]["mean"] == pytest.approx(3.0)
    assert entry["psnr_db"]["high"] - 3 == pytest.approx(12.7062, rel=1e-4)


def test_many_cases_of_one_patient_have_no_interval():
    (entry,) = summarise([row(str(i), "A", float(i)) for i in range(8)])
    assert entry["psnr_db"]["mean"] == 3.5
    assert math.isnan(entry["psnr_db"]["low"]) and math.isnan(entry["psnr_db"]["high"])


def test_a_number_that_is_not_finite_takes_no_part_in_a_mean():
    (entry,) = summarise([row("a", "A", math.inf), row("b", "A", 2.0), row("c", "B", math.nan)])
    assert entry["psnr_db"]["mean"] == 2.0


def test_the_worst_cases_are_by_the_last_stage_and_a_volume_with_nan_is_the_worst():
    rows = [row(case, case, 99.0 - psnr, "stage 1", 8) for case, psnr in zip("abcd", (4, 3, 2, 1))]
    rows += [row(case, case, psnr, "stage 2", 16) for case, psnr in zip("abcd", (4.0, math.nan, 2.0, 1.0))]
    rows += [row(case, case, 0.0, "upsampled stage 1", 16) for case in "abcd"]
    assert [case["case"] for case in worst_cases(rows, 3)] == ["b", "d", "c"]
