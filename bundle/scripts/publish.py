"""
Publishes the bundle on the Hugging Face Hub, from the bundle's folder:

    python -m scripts.publish OWNER/NAME          say which files that would be, and what is missing; sends nothing
    python -m scripts.publish OWNER/NAME --yes    upload these files, by your own token

The token is that of `hf auth login` or of HF_TOKEN; the address of the hub is https://huggingface.co or HF_ENDPOINT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from monai.utils import optional_import

from . import package
from .errors import CheckpointError, InputError, OutputError, one_line_message

huggingface_hub, HAS_HUB = optional_import("huggingface_hub")

CARD = {
    "license": "apache-2.0",
    "library_name": "monai",
    "pipeline_tag": "image-to-3d",
    "tags": ["monai", "medical", "chest", "x-ray", "computed-tomography", "3d-reconstruction", "research-use-only"],
}
"""
Front matter of the card, in the hub's words: its identifier of the licence in `LICENSE`, and one of its tasks. The
first two tags are those of MONAI's own `push_to_hf_hub`.
"""
PAGE = "docs/README.md"
"""The model card. A front matter in it would be shown by MONAI's zoo, and doubled by `push_to_hf_hub`."""
REQUIRED = (
    "LICENSE",
    "configs/inference.json",
    "configs/metadata.json",
    PAGE,
    "docs/data_license.txt",
    package.WEIGHTS,
    package.TRAINING,
)
"""What a user needs in order to run the bundle and to know what it may be used for."""
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^()\s#]+)")
"""The target of a relative link of a page, without its anchor."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 when something is missing, may not be shared, or is not taken."""
    options = _parse(arguments)
    try:
        publish(options.hub, options.yes, options.public)
    except (InputError, CheckpointError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def publish(hub: str, really: bool = False, public: bool = False) -> None:
    """
    Prints the files, their sizes and SHA-256, and what is missing; uploads exactly these bytes if that is asked for,
    and gives them the version's tag. Files that the repository holds besides stay there, and are named.

    Args:
        hub: the repository, `OWNER/NAME`.
        really: whether to upload. It is made where it is not there.
        public: whether a repository that is made is seen by everybody, instead of by its owner alone.

    Raises:
        InputError: when `hub` is no such name, something is missing, or a file may not be shared, see
            :func:`~scripts.package.checked_files`.
        CheckpointError: when weights or sidecar files do not fit.
        OutputError: when the hub does not take it, or has this version already.
    """
    if not REPOSITORY.fullmatch(hub):
        raise InputError(f"--hub {hub}: expected OWNER/NAME, such as somebody/{package.NAME}.")
    missing = missing_files()
    contents = hub_contents(package.content_files() if missing else package.checked_files())
    for name, content in contents.items():
        print(f"{hashlib.sha256(content).hexdigest()}  {len(content):>10}  {name}")
    print(f"{len(contents)} files, {sum(map(len, contents.values())) / 1e6:.1f} MB; SHA-256, bytes and name of each.")
    if package.ATLAS in package.content_files():
        print(f"Left out, since it holds patients' volumes: {package.ATLAS}. Weights that read it do not run without.")
    missing += _missing_of_the_hub()
    for each in missing:
        print(f"Missing: {each}")
    if not really:
        print(f"Nothing has been sent. --yes uploads to {hub}.")
        return
    if missing:
        raise InputError(f"{len(missing)} missing, see above: nothing has been sent.")
    _upload(hub, contents, private=not public)


def missing_files() -> list[str]:
    """What of :data:`REQUIRED` is not there, or does not say whose CTs the weights derive from."""
    there = package.content_files()
    missing = [f"{package.BUNDLE / name}: no such file." for name in REQUIRED if name not in there]
    if package.TRAINING in there:
        log = json.loads(there[package.TRAINING].read_text(encoding="utf-8"))
        if not (isinstance(log, dict) and log.get("training")):
            missing.append(f"{there[package.TRAINING]}: names no 'training' records, whose licences would be checked.")
    return missing


def hub_contents(paths: Mapping[str, Path]) -> dict[str, bytes]:
    """
    The files of a repository on the hub by their names in it: those of the archive, whatever their size, without an
    atlas, and the card.
    """
    contents = {name: path.read_bytes() for name, path in paths.items() if name != package.ATLAS}
    if PAGE in contents:
        contents["README.md"] = card_of(contents[PAGE].decode("utf-8")).encode("utf-8")
    return dict(sorted(contents.items()))


def card_of(page: str) -> str:
    """The repository's first page: the model card with its front matter, its links those of one folder higher."""

    def moved(link: re.Match[str]) -> str:
        return f"]({posixpath.normpath(posixpath.join(posixpath.dirname(PAGE), link[1]))}"

    front = yaml.safe_dump(CARD, sort_keys=False)
    return f"---\n{front}---\n{LINK.sub(moved, page)}"


def _missing_of_the_hub() -> list[str]:
    if not HAS_HUB:
        return ["the package huggingface_hub; `python launch.py install publish` installs it."]
    if huggingface_hub.get_token() is None:
        return ["a token of the hub that may write; `hf auth login` keeps one, or HF_TOKEN holds it."]
    return []


def _upload(hub: str, contents: Mapping[str, bytes], private: bool) -> None:
    """
    Raises:
        OutputError: whatever the hub or the way there has against it.
    """
    api = huggingface_hub.HfApi()
    files = [huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents[name]) for name in contents]
    version = package.bundle_version()
    try:
        api.create_repo(hub, private=private, exist_ok=True)
        if version in [tag.name for tag in api.list_repo_refs(hub).tags]:
            raise OutputError(f"version {version} is there already; write another into configs/metadata.json.")
        done = api.create_commit(hub, files, commit_message=f"Version {version}")
        api.create_tag(hub, tag=version, revision=done.oid)
        there = [each.rfilename for each in api.model_info(hub).siblings or []]
    except Exception as error:  # of the hub, of HTTP, or of a server that answers otherwise
        raise OutputError(f"{api.endpoint}, {hub}: {one_line_message(error)}") from error
    others = sorted(set(there) - set(contents) - {".gitattributes"})
    if others:
        print(f"The repository also holds, of no part of this version: {', '.join(others)}")
    print(f"Uploaded {len(contents)} files: {done.commit_url}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hub", metavar="OWNER/NAME", help="the repository")
    parser.add_argument("--yes", action="store_true", help="upload")
    parser.add_argument("--public", action="store_true", help="let everybody see a repository that is made")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
