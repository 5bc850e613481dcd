"""Lists of pairs: their ids, and tables that nothing may be done by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import GeometryFromRadiographsd, InputError, listed_pairs
from scripts.data.pair_list import ListedPair
from scripts.reporting.many_pairs import RESERVED

VIEWS = {"frontal": "pa", "lateral": "ll"}
"""Words of the files' names."""


def listed(table: Path, text: str | bytes) -> list[ListedPair]:
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return listed_pairs(str(table), RESERVED)


def test_a_folder_lists_each_pair_once_and_studies_that_lack_a_view_with_that(tmp_path: Path, capsys):
    for name in ("p1/pa.png", "p1/ll.png", "two/s1_pa.png", "two/s1_lat.png", "two/s2_pa.png", "two/s2_lat.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "frontal.png").touch()
    (tmp_path / "flat_pa.png").touch()
    (tmp_path / "flat_ll.png").touch()
    (tmp_path / "notes.txt").touch()
    pairs = {pair.name: pair for pair in listed_pairs(str(tmp_path))}
    assert set(pairs) == {"p1", "two_s1_pa", "two_s2_pa", "half", "flat_pa"}
    assert pairs["p1"].radiographs == {view: str(tmp_path / "p1" / f"{at}.png") for view, at in VIEWS.items()}
    assert pairs["half"].obstacle == "its study has 1 frontal and 0 lateral radiographs, expected one of each"
    assert [pair.name for pair in pairs.values() if pair.obstacle] == ["half"]
    assert "notes.txt: is no image file" in capsys.readouterr().out


def test_a_table_names_files_from_its_folder_on_or_anywhere_and_views_and_ids_where_it_has_them(tmp_path: Path):
    text = "\ufefffrontal,lateral,id,views\r\na/pa.png,a/ll.png,,\r\n../x.png,/data/y.png,käse 1,ap/rl\r\n"
    first, second = listed(tmp_path / "pairs.csv", text)
    assert first == ListedPair("a", {view: str(tmp_path / "a" / f"{at}.png") for view, at in VIEWS.items()})
    elsewhere = {"frontal": str(tmp_path.parent / "x.png"), "lateral": "/data/y.png"}
    assert second == ListedPair("käse 1", elsewhere, ("AP", "RL"))


def test_views_of_a_table_count_where_the_radiographs_do_not_say(geometry):
    found = GeometryFromRadiographsd(geometry)({"geometry": {"views": ("AP", "RL")}})["geometry"]
    assert found["views"] == ("AP", "RL")
    assert found["source_to_isocentre_mm"] == geometry.source_to_isocentre_mm


def test_pairs_that_would_be_called_alike_are_told_apart_whatever_their_order(tmp_path: Path):
    rows = ["a_b/pa.png,a_b/ll.png", "a/b/pa.png,a/b/ll.png", "c/pa.png,c/ll.png"]
    names = [
        {pair.radiographs["frontal"]: pair.name for pair in listed(tmp_path / "t.csv", "\n".join(lines))}
        for lines in (["frontal,lateral", *rows], ["frontal,lateral", *rows[::-1]])
    ]
    assert names[0] == names[1] and len(set(names[0].values())) == 3
    assert names[0][str(tmp_path / "c" / "pa.png")] == "c"


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "..", "a/b", "a\\b", "C:x", "nul", "COM1.txt", "x.", ".x", "-rf", "=1+1", "$@x", "a\x1b[31m"]
    + ["pairs.csv", "ERROR.LOG", "in_use.lock", "x" * 201],
)
def test_an_id_that_leaves_the_output_or_is_no_folders_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="id"):
        listed(tmp_path / "pairs.csv", f'frontal,lateral,id\na.png,b.png,"{name}"\n')


def test_a_row_of_a_table_may_have_one_radiograph_alone(tmp_path: Path):
    pairs = listed(tmp_path / "pairs.csv", "frontal,lateral,id\na.png,,one\n,b.png,two\n")
    expected = {"one": {"frontal": f"{tmp_path}/a.png"}, "two": {"lateral": f"{tmp_path}/b.png"}}
    assert {pair.name: dict(pair.radiographs) for pair in pairs} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frontal,lateral,id\na,b,x\nc,d,X\n", "ids 'x' and 'X'"),
        ("frontal,lateral\na,b\na,b\n", "two pairs have the ids"),
        ("frontal;lateral\na;b\n", "its first row is"),
        ("frontal,lateral,patient\na,b,c\n", "its first row is"),
        ("frontal,lateral,lateral\na,b,c\n", "its first row is"),
        ("frontal,lateral\na,b,c\n", "row 1 has more cells"),
        ("frontal,lateral,id\n,,x\n", "row 1: 'frontal' and 'lateral' are empty"),
        ("frontal,lateral\na\0b,c\n", "NUL"),
        ("frontal,lateral,views\na,b,LL PA\n", "column 'views' is 'LL PA', expected AP or PA"),
        ("frontal,lateral\n", "no pair of radiographs found"),
        ("", "its first row is"),
        (b"frontal,lateral\n\xff,b\n", "cannot be read as CSV in UTF-8"),
        ('frontal,lateral\n"a,b\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused_by_a_sentence(tmp_path: Path, text: str | bytes, message: str):
    with pytest.raises(InputError, match=message):
        listed(tmp_path / "pairs.csv", text)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_and_nothing_are_no_table(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no file and no folder"):
        listed_pairs(str(tmp_path / "pipe"))
    with pytest.raises(InputError, match="no such file or folder"):
        listed_pairs(str(tmp_path / "nothing"))
