"""The benchmark of loading, at sizes that take seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ignite.engine import Engine

from phantoms import phantom
from scripts.io.image_writer import cube_affine, write_ct

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import loading  # noqa: E402


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_waiting_making_and_the_network_are_told_apart():
    def batches():
        for _ in range(3):
            time.sleep(0.05)
            yield 0

    def prepare() -> None:
        time.sleep(0.02)

    clock = loading.Stopwatch(prepare)

    def step(engine: Engine, batch: int) -> None:
        clock.prepare()
        time.sleep(0.1)

    engine = Engine(step)
    clock.attach(engine)
    engine.run(batches(), epoch_length=3)
    for times, least in ((clock.waiting, 0.05), (clock.making, 0.02), (clock.stepping, 0.12)):
        assert len(times) == 3
        assert all(least <= seconds for seconds in times) and min(times) < 2 * least


def test_training_waits_for_its_cached_data_for_a_small_part_of_a_step(tmp_path: Path, capsys):
    write_ct(str(tmp_path / "ct.nii.gz"), phantom(64, 0.0), cube_affine(64, 360.0))
    options = f"--ct {tmp_path / 'ct.nii.gz'} --quick --markdown --stages 2 --workers 0 --steps 2 --repeats 1"
    loading.main(options.split())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    parts = dict(cells(line) for line in lines[2:-3])
    assert parts and all(float(seconds) >= 0 for seconds in parts.values())
    row = dict(zip(cells(lines[-3]), cells(lines[-1])))
    shares = [float(row[name].rstrip("%")) for name in ("waiting", "making the batch", "network")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares[0] < 10


def test_every_way_to_keep_a_ct_has_its_bytes(tmp_path: Path, capsys):
    """Float32 in memory and in a file; the file of a cube, made before, is at most its voxels in int16."""
    write_ct(str(tmp_path / "ct.nii.gz"), phantom(64, 0.0), cube_affine(64, 360.0))
    loading.main(["--kept", str(tmp_path / "ct.nii.gz"), "--quick", "--markdown"])
    rows = [cells(line) for line in capsys.readouterr().out.splitlines()]
    found = {row[0]: dict(zip(rows[0][1:], map(float, row[1:]))) for row in rows[2:]}
    files, memory, folder, cubes, part = (each["MiB a CT"] for each in found.values())
    side = loading.configuration(loading._options(["--quick"]), 1).get_parsed_content("volume_size")
    assert files == pytest.approx((tmp_path / "ct.nii.gz").stat().st_size / 2**20, rel=0.01)
    assert memory >= 4 * side**3 / 2**20 and folder == pytest.approx(memory, rel=0.02)
    assert cubes == part < 2 * side**3 / 2**20
    assert [each["beforehand"] > 0 for each in found.values()] == [False, False, False, True, True]
