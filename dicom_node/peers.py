"""Who may send, and where results go: application entities (AEs) as the command line names them."""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.errors import InputError

TITLE = re.compile(r"(?=.*[^ ])[ -\[\]-~]{1,16}")
"""At most 16 printable ASCII characters, no backslash, not blanks alone (PS3.5 6.2, AE)."""


@dataclass(frozen=True)
class Sender:
    """
    An AE that may send.

    Args:
        title: what it calls itself.
        addresses: from which it may come; empty for any.
    """

    title: str
    addresses: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """The AE that results are stored to."""

    title: str
    host: str
    port: int


def title(text: str) -> str:
    """
    An AE title.

    Raises:
        argparse.ArgumentTypeError: when it is none.
    """
    if not TITLE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no AE title, expected 1 to 16 ASCII characters, no backslash.")
    return text.strip()


def sender(text: str) -> Sender:
    """
    `AET` or `AET=HOST`; a host's name is looked up once.

    Raises:
        argparse.ArgumentTypeError: when it is neither, or there is no such host.
    """
    name, has_host, host = text.partition("=")
    return Sender(title(name), addresses_of(host) if has_host else frozenset())


def target(text: str) -> Target:
    """
    `AET@HOST:PORT`.

    Raises:
        argparse.ArgumentTypeError: when it is not.
    """
    name, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not (name and host and re.fullmatch(r"\d{1,5}", port, re.A) and 1 <= int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r}: expected AET@HOST:PORT, such as PACS@127.0.0.1:11112.")
    return Target(title(name), host.strip("[]"), int(port))


def addresses_of(host: str) -> frozenset[str]:
    """Those of a host by its name or address, as :func:`plain_address` writes them."""
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM) if host else []
    except OSError as error:
        raise argparse.ArgumentTypeError(f"host {host!r} is not known ({error}).") from error
    if not found:
        raise argparse.ArgumentTypeError("an empty host, expected AET=HOST, or AET alone for any.")
    return frozenset(plain_address(str(entry[4][0])) for entry in found)


def plain_address(text: str) -> str:
    """An IP address in its shortest form; one of IPv4 that came by IPv6 as of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_allowed(senders: Sequence[Sender], called: str, address: str) -> bool:
    """Whether an AE of this title may send from this address."""
    found = plain_address(address)
    return any(each.title == called and (not each.addresses or found in each.addresses) for each in senders)


def check_reach(host: str, senders: Sequence[Sender]) -> None:
    """
    An AE title is no secret: where other machines can ask, each sender has to come from a known one.

    Raises:
        InputError: when the node listens to other machines and a sender may come from any.
    """
    anywhere = [each.title for each in senders if not each.addresses]
    if anywhere and not all(ipaddress.ip_address(address).is_loopback for address in addresses_of(host)):
        raise InputError(
            f"--host {host}: other machines can ask there, and --allow {anywhere[0]} would let any of them send; name "
            f"where it sends from, --allow {anywhere[0]}=HOST, or listen on 127.0.0.1."
        )
