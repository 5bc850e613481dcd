"""Objects of a public bucket: they come whole or not at all, and the store is a stranger."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from threading import Thread

import pytest

from object_server import Bucket, bucket
from scripts import InputError
from scripts.errors import OutputError
from scripts.io import object_store
from scripts.io.object_listing import StoredObject, parse_listing
from scripts.io.object_store import ObjectStore
from unwritable import full_disk, on_posix

CONTENT = random.Random(0).randbytes(600_000)
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
    b"<ListBucketResult><Contents><Key>&b;</Key><Size>1</Size></Contents></ListBucketResult>"
)
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><ListBucketResult><Key>&a;</Key></ListBucketResult>'


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(object_store, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def server():
    with bucket({f"s/{name}.dcm": CONTENT + name.encode() for name in "abcde"}) as server:
        yield server


def first(server: Bucket, said: list[str] | None = None) -> tuple[ObjectStore, StoredObject]:
    store = ObjectStore(server.address, said.append if said is not None else lambda sentence: None)
    return store, next(store.objects("s/", 9))


def test_a_listing_of_several_pages_has_each_object_once(server: Bucket):
    found = list(ObjectStore(server.address).objects("s/", 5))
    assert [each.key for each in found] == [f"s/{name}.dcm" for name in "abcde"]
    assert {each.size for each in found} == {len(CONTENT) + 1} and all(each.md5 for each in found)


def test_more_objects_than_are_expected_are_refused(server: Bucket):
    with pytest.raises(InputError, match="more than 4 objects"):
        list(ObjectStore(server.address).objects("s/", 4))


def test_an_object_comes_whole_and_leaves_no_part(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    counted: list[int] = []
    store.fetch(wanted, str(tmp_path / "d" / "a.dcm"), counted.append)
    assert (tmp_path / "d" / "a.dcm").read_bytes() == CONTENT + b"a" and sum(counted) == wanted.size
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["a.dcm"]


def test_what_broke_goes_on_by_a_range_where_it_stopped(server: Bucket, tmp_path: Path):
    store, wanted = first(server, said := [])
    server.cut["s/a.dcm"] = 300_000
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert server.starts_of("s/a.dcm") == [0, 300_000] and "300000 of 600001 bytes" in said[0]
    assert (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a"


def test_a_part_of_an_earlier_try_is_not_asked_for_again(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    (tmp_path / "a.dcm.part").write_bytes(CONTENT[:1234])
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert server.starts_of("s/a.dcm") == [1234]
    (tmp_path / "a.dcm").rename(tmp_path / "a.dcm.part")  # killed between the last byte and the name
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert server.starts_of("s/a.dcm") == [1234] and (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a"


@pytest.mark.parametrize("part", [b"x" * 1234, b"x" * 700_000])
def test_a_part_that_is_none_of_it_is_thrown_away(server: Bucket, tmp_path: Path, part: bytes):
    store, wanted = first(server, said := [])
    (tmp_path / "a.dcm.part").write_bytes(part)
    counted: list[int] = []
    store.fetch(wanted, str(tmp_path / "a.dcm"), counted.append)
    assert (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a" and sum(counted) == wanted.size
    assert "damaged" in said[0]


def test_a_server_that_knows_no_ranges_sends_the_whole(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    server.knows_ranges = False
    (tmp_path / "a.dcm.part").write_bytes(CONTENT[:1234])
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a"


def test_what_came_damaged_is_named_and_comes_again(server: Bucket, tmp_path: Path):
    store, wanted = first(server, said := [])
    server.damage.add("s/a.dcm")
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a"
    assert len(said) == 1 and "s/a.dcm" in said[0] and "damaged" in said[0]


def test_what_stays_damaged_gets_no_name(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    other = StoredObject(wanted.key, wanted.size, "0" * 32)
    with pytest.raises(InputError, match="s/a.dcm: cannot be had in 5 tries.* damaged"):
        store.fetch(other, str(tmp_path / "a.dcm"))
    assert not list(tmp_path.iterdir())


def test_more_bytes_than_are_listed_are_refused(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    with pytest.raises(InputError, match="longer than the 5 bytes"):
        store.fetch(StoredObject(wanted.key, 5, None), str(tmp_path / "a.dcm"))
    assert not (tmp_path / "a.dcm").exists()


def test_nothing_is_followed_to_another_place(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    with bucket({"s/a.dcm": CONTENT}) as other:
        server.redirect = f"{other.address}/s/a.dcm"
        with pytest.raises(InputError, match="status 307 .* leads to http://127.0.0.1.* where nobody follows"):
            store.fetch(wanted, str(tmp_path / "a.dcm"))
        with pytest.raises(InputError, match="status 307"):
            list(store.objects("s/", 5))
        assert not other.asked


@pytest.mark.parametrize("answer", [BOMB, OUTSIDE, BOMB.decode().encode("utf-16")])
def test_xml_that_declares_entities_is_refused_before_any_is_read(answer: bytes):
    with pytest.raises(InputError, match="document type"):
        parse_listing(answer, "store")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no XML"),
        (b"<html></html>", "<html>"),
        (b"<ListBucketResult>", "no XML"),
        (b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", "NextContinuationToken"),
        (b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>", "Key and Size"),
        (b"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>", "Key and Size"),
    ],
)
def test_what_is_no_listing_is_refused(answer: bytes, said: str):
    with pytest.raises(InputError, match=said):
        parse_listing(answer, "store")


def test_a_listing_without_end_is_refused(server: Bucket):
    server.listing = b"<ListBucketResult>" + b" " * 2**23
    with pytest.raises(InputError, match="at most 4194304 bytes"):
        list(ObjectStore(server.address).objects("s/", 5))


@pytest.mark.parametrize(
    "address",
    [
        "http://idc-open-data.s3.amazonaws.com", "http://127.0.0.1.example.com", "ftp://127.0.0.1", "https://",
        "https://user@host", "https://host/path", "https://host?x", "file:///etc", "", "https://host:port",
        "http://localhost@example.com",
    ],
)  # fmt: skip
def test_an_address_that_is_neither_https_nor_of_this_machine_is_refused(address: str):
    with pytest.raises(InputError, match="address"):
        ObjectStore(address)


def test_a_server_that_falls_silent_is_given_up(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(object_store, "SECONDS", 0.05)
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kept: list[socket.socket] = []
        Thread(target=lambda: [kept.append(silent.accept()[0]) for _ in range(2)], daemon=True).start()
        store = ObjectStore(f"http://127.0.0.1:{silent.getsockname()[1]}", lambda sentence: None)
        with pytest.raises(InputError, match="cannot be had in 2 tries, at last: timed out"):
            list(store.objects("s/", 5))


@on_posix
def test_a_full_disk_is_named_and_what_came_is_kept(server: Bucket, tmp_path: Path):
    store, wanted = first(server)
    with full_disk(500_000), pytest.raises(OutputError, match="a.dcm: cannot be written"):
        store.fetch(wanted, str(tmp_path / "a.dcm"))
    store.fetch(wanted, str(tmp_path / "a.dcm"))
    assert server.starts_of("s/a.dcm")[1] > 0 and (tmp_path / "a.dcm").read_bytes() == CONTENT + b"a"
