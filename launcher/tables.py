"""The scores of an evaluation as tables for a terminal."""

from __future__ import annotations

import json
from pathlib import Path

from .from_bundle import measurement_table

SUMMARY_COLUMNS = {"ssim": 3, "mae_hu": 0, "psnr_x2ct_db": 1, "false_energy_body": 2}
"""Decimal places of the scores next to the PSNR."""
OVERLAPS = (
    ("Dice of the lungs", "dice_lungs", 2),
    ("Dice of bone", "dice_bone", 2),
    ("Bias of air and lung, HU", "bias_air_and_lung_hu", 0),
    ("Bias of soft tissue, HU", "bias_soft_hu", 0),
    ("Bias of bone, HU", "bias_bone_hu", 0),
)
"""Scores under the measurements, with their decimal places."""


def print_summary(summary: list[dict]) -> None:
    scores = f"{'PSNR dB':>9}{'':<14}{'SSIM':>6}{'MAE HU':>8}{'X2CT dB':>9}{'false':>7}"
    print(f"\n{'group':<22}{'size':>5}  {'method':<33}{'cases':>6}{scores}")
    for entry in summary:
        means = [formatted(entry[name]["mean"], places) for name, places in SUMMARY_COLUMNS.items()]
        print(
            f"{entry['group']:<22}{entry['size']:>4}³  {entry['method']:<33}{entry['cases']:>6}"
            f"{psnr_with_interval(entry)}{means[0]:>6}{means[1]:>8}{means[2]:>9}{means[3]:>7}"
        )
    print(
        "PSNR: 3-D, whole volume, data range the HU window, mean (95 % interval over patients); "
        "the X2CT convention reads higher. false: energy of what is sharp in the body and not in the ground truth."
    )


def print_measurements(content: dict) -> None:
    """The measurements of a volume as on its page, and what they are worth."""
    table = measurement_table.measurement_table(content)
    lines = [list(table.rows[0]), *(list(row.values()) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    print()
    for first, *others in lines:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:-1]))
        print("  ".join([f"{first:<{widths[0]}}", *cells, others[-1]]).rstrip())
    print("\n".join(table.notes))


def print_measurement_errors(path: Path) -> None:
    """
    Signed errors of the measurements of the last stage, of the mean volume, and of the first stage's grid alone; how
    many patients the last stage's intervals hold, where there are any.
    """
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    coverage = {entry["group"]: entry for entry in content.get("coverage", [])}
    for group in dict.fromkeys(entry["group"] for entry in content["summary"]):
        chosen = [entry for entry in content["summary"] if entry["group"] == group]
        _print_errors(content["measures"], chosen, group, coverage.get(group, {}))
    print(
        "Measurements: mean error over patients (limits of agreement of Bland and Altman), volume less ground truth. "
        "ground truth: averaged to that size, what the grid alone loses."
    )
    if coverage:
        print("Interval: half-width about the last stage's figure, and of how many patients it holds their own.")


PAIR_SCORES = (
    ("Lungs, Dice, affine", "dice_lungs_affine", 2),
    ("Lungs, Dice, smooth", "dice_lungs_smooth", 2),
    ("Body, Dice, affine", "dice_body_affine", 2),
    ("Body, Dice, smooth", "dice_body_smooth", 2),
    ("Volume ratio, affine", "affine_volume_ratio", 2),
    ("Outlines, frontal, Dice", "outline_dice", 2),
    ("Outlines, frontal, apart, mm", "outline_distance_mm", 1),
)
"""Scores under the errors of a table of pairs, with their decimal places."""


def print_pairs(content: dict) -> None:
    """Errors, limits of agreement and overlaps of what is in `pairs.json`, and who is in none of them."""
    for group in dict.fromkeys(entry["group"] for entry in content["summary"]):
        chosen = [entry for entry in content["summary"] if entry["group"] == group]
        heads = "".join(f"{entry['method']:>28}" for entry in chosen)
        print(f"\n{group:<28}{'unit':<5}{heads}")
        for each in content["measures"]:
            places = measurement_table.PLACES[each["unit"]]
            errors = "".join(f"{_with_limits(entry[each['key'] + '_error'], places):>28}" for entry in chosen)
            print(f"{each['label']:<28}{each['unit']:<5}{errors}")
            counts = "".join(f"{entry[each['key'] + '_error']['patients']:>28}" for entry in chosen)
            print(f"{'  patients':<33}{counts}")
        for label, name, places in PAIR_SCORES:
            print(f"{label:<33}" + "".join(f"{formatted(entry[name]['mean'], places):>28}" for entry in chosen))
    print(
        "Mean error over patients (limits of agreement of Bland and Altman), prediction less CT: it holds what posture "
        "and breath have changed. Dice after affine and after smooth alignment to the CT."
    )
    print(f"{content['scored']} of {content['scored'] + len(content['failed'])} pairs are scored.")
    print(
        f"Left out: {len(content['met'])} patients whom the shipped weights have met ({_some(content['met'])}), and "
        f"{len(content['excluded'])} that the datalist excludes."
    )


def _some(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _print_errors(measures: list[dict], entries: list[dict], group: str, coverage: dict) -> None:
    stages = [entry for entry in entries if entry["method"].startswith("stage")]
    means = [entry for entry in entries if entry["method"] == "mean volume"]
    chosen = [stages[-1], *means, next(entry for entry in entries if entry["method"] == "ground truth")]
    heads = "".join(f"{entry['method'] + ', ' + str(entry['size']) + '³':>28}" for entry in chosen)
    print(f"\n{group:<28}{'unit':<5}{heads}{'interval' if coverage else '':>20}")
    for each in measures:
        places = measurement_table.PLACES[each["unit"]]
        errors = "".join(f"{_with_limits(entry[each['key'] + '_error'], places):>28}" for entry in chosen)
        print(f"{each['label']:<28}{each['unit']:<5}{errors}{_held(coverage.get(each['key']), places):>20}".rstrip())
    for label, name, places in OVERLAPS:
        print(f"{label:<33}" + "".join(f"{formatted(entry[name]['mean'], places):>28}" for entry in chosen))


def _held(covered: dict | None, places: int) -> str:
    if covered is None:
        return ""
    return f"±{covered['half_width']:.{places}f}, {covered['held']} of {covered['patients']}"


def _with_limits(error: dict, places: int) -> str:
    if error["mean"] is None:
        return "-"
    limits = (
        "" if error["sd"] is None else f" ({error['lower_limit']:+.{places}f} to {error['upper_limit']:+.{places}f})"
    )
    return f"{error['mean']:+.{places}f}{limits}"


def print_protocol(summary: list[dict]) -> None:
    """The mean scores of the last stage and of its baselines by the protocol of X2CT-GAN."""
    print(f"\n{'group':<22}{'method':<33}{'cases':>6}{'PSNR dB':>9}{'':<14}{'PSNR-3D dB':>11}{'SSIM':>7}")
    for entry in summary:
        volume_psnr, ssim = formatted(entry["psnr_3d_db"]["mean"], 2), formatted(entry["ssim"]["mean"], 3)
        scores = f"{psnr_with_interval(entry)}{volume_psnr:>11}{ssim:>7}"
        print(f"{entry['group']:<22}{entry['method']:<33}{entry['cases']:>6}{scores}")
    print(
        "By the protocol of X2CT-GAN: PSNR slice by slice and of the whole volume, peak 4095, 320 mm at 128³; "
        "mean (95 % interval over patients)."
    )


def print_robustness(summary: list[dict]) -> None:
    """The mean PSNR of each stage under each perturbation, and its difference from the nominal acquisition."""
    print(f"\n{'change of the X-rays':<62}{'value':>18}  {'stage':<7}{'PSNR dB':>8}{'change':>8}")
    for entry in summary:
        value = entry["value"] if isinstance(entry["value"], str) else ""
        if isinstance(entry["value"], (int, float)):
            value = f"{entry['value']:g} {entry['unit']}".strip()
        means = [formatted(entry[name]["mean"], 2) for name in ("psnr_db", "psnr_change_db")]
        print(f"{entry['change']:<62}{value:>18}  {entry['stage']:<7}{means[0]:>8}{means[1]:>8}")


def print_lesions(report: dict) -> None:
    """What each method keeps of planted lesions, by their diameter, and the smallest that it shows."""
    summary = report["summary"]
    diameters = sorted({entry["diameter_mm"] for entry in summary})
    for name, heading, digits in (
        ("retained", "contrast that is retained", 2),
        ("detectability", "detectability", 1),
        ("false_lesions", "false lesions a patient", 1),
    ):
        print(f"\n{heading:<40}" + "".join(f"{diameter:>6g} mm" for diameter in diameters))
        for method in dict.fromkeys(entry["method"] for entry in summary):
            means = {entry["diameter_mm"]: entry[name]["mean"] for entry in summary if entry["method"] == method}
            print(f"{method:<40}{''.join(f'{formatted(means.get(each), digits):>9}' for each in diameters)}")
    smallest = report["smallest_visible_mm"].items()
    print(f"\nSmallest visible: {', '.join(f'{name} {mm:g} mm' if mm else f'{name} none' for name, mm in smallest)}.")
    for case, reason in report["left_out"].items():
        print(f"Left out: {case}: {reason}")


def print_assessment(content: dict) -> None:
    """What is known of a reconstruction without a CT: consistency, errors, verdict, and the checklist."""
    consistency, known = content["consistency"], content["out_of_distribution"]
    percent = {name: "-" if value is None else f"{100 * value:.2f} %" for name, value in consistency.items()}
    rows = [
        ("Both views differ, before the pair's calibration", percent["before_calibration"]),
        ("... after it, before the rest is shared out", percent["after_calibration"]),
        ("... as reconstructed from", percent["as_reconstructed"]),
        ("... in the reprojection", percent["reprojection"]),
    ]
    for view, error in content["reprojection"].items():
        relative = "" if error["relative"] is None else f" ({100 * error['relative']:.1f} % of the mean)"
        rows.append((f"Reprojection error, {view}, line integrals", formatted(error["mae"], 3) + relative))
    verdict = "not asked: the weights have no familiarity sidecar"
    if known:
        said = "FLAGGED" if known["flagged"] else "not flagged"
        verdict = f"{formatted(known['distance'], 2)}, at most {known['threshold']:.2f} expected: {said}"
    lungs = content["lung_fields"]
    rows += [
        ("Distance from the training's X-rays", verdict),
        ("Lung fields, frontal: Dice", formatted(lungs["dice"], 3)),
        ("Lung fields, frontal: mean contour distance", f"{formatted(lungs['contour_distance_mm'], 1)} mm"),
    ]
    print()
    for name, value in rows:
        print(f"{name:<52}{value}")
    rules = content["checklist"]["rules"]
    print(f"\nChecklist: {content['checklist']['passed']} of {len(rules)} rules hold")
    for rule in rules:
        found = "not readable" if rule["value"] is None else f"{rule['value']:.3g} {rule['unit']}".strip()
        verdict = "passed" if rule["passed"] else "FAILED"
        print(f"{verdict}  {rule['sentence'].partition(':')[0]:<58}{found:>14}  expected {rule['limits']}")
    print("\n".join(content["not_compared"]))


def psnr_with_interval(entry: dict) -> str:
    """The mean PSNR and its interval over patients, in 23 columns."""
    psnr = entry["psnr_db"]
    interval = "" if psnr["low"] is None else f" ({psnr['low']:.1f}-{psnr['high']:.1f})"
    return f"{formatted(psnr['mean'], 2):>9}{interval:<14}"


def formatted(value: float | None, places: int) -> str:
    """A number, or a dash for one that is not finite, which the report holds as null."""
    return "-" if value is None else f"{value:.{places}f}"
