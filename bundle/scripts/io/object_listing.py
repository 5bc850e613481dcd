"""The answer of an S3 bucket that is asked what it holds (REST API, ListObjectsV2), as XML of a stranger."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.parsers import expat

from ..errors import InputError, one_line_message

FIELDS = {"Key", "Size", "ETag"}
MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredObject:
    """
    One object of a bucket.

    Args:
        key: its name, with slashes.
        size: in bytes.
        md5: of its content, as hexadecimal digits; None where the ETag is none, as that of an upload in parts.
    """

    key: str
    size: int
    md5: str | None


@dataclass(frozen=True)
class Listing:
    """
    One page of a listing.

    Args:
        objects: in the order of the answer.
        following: token that asks for the next page; None on the last one.
    """

    objects: list[StoredObject]
    following: str | None


def parse_listing(content: bytes, where: str) -> Listing:
    """
    Args:
        content: the answer's body.
        where: start of each message: what was asked.

    Raises:
        InputError: when it is no XML, declares a document type, by which entities come, or is no such listing.
    """
    reader = _Reader(where)
    try:
        reader.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise InputError(f"{where} answered no XML ({one_line_message(error)}); expected a listing of S3.") from error
    if reader.root != "ListBucketResult":
        raise InputError(f"{where} answered <{reader.root}>, expected <ListBucketResult>; correct the address.")
    is_truncated = reader.fields.get("IsTruncated") == "true"
    following = reader.fields.get("NextContinuationToken") if is_truncated else None
    if is_truncated and not following:
        raise InputError(f"{where} answered a part of its listing without NextContinuationToken; try again.")
    return Listing([_object(fields, where) for fields in reader.objects], following)


class _Reader:
    """Gathers the texts of an answer's elements."""

    def __init__(self, where: str) -> None:
        self.where, self.root = where, ""
        self.fields: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []
        self._path: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = lambda name: self._path.pop()
        self.parser.CharacterDataHandler = self._text

    def _refuse(self, *declared: object) -> None:
        raise InputError(f"{self.where} answered XML with a document type, expected none; correct the address.")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        self._path.append(name)
        if self._path[1:] == ["Contents"]:
            self.objects.append({})

    def _text(self, text: str) -> None:
        *parents, name = self._path
        if len(parents) == 1:
            self.fields[name] = self.fields.get(name, "") + text
        elif parents[1:] == ["Contents"] and name in FIELDS:
            self.objects[-1][name] = self.objects[-1].get(name, "") + text


def _object(fields: dict[str, str], where: str) -> StoredObject:
    size, tag = fields.get("Size", ""), fields.get("ETag", "").strip('"')
    if not fields.get("Key") or not re.fullmatch(r"[0-9]{1,15}", size):
        raise InputError(f"{where} lists {fields!r}, expected an object with Key and Size; correct the address.")
    return StoredObject(fields["Key"], int(size), tag if MD5.fullmatch(tag) else None)
