"""The pages hold to the code: links and anchors resolve; verbs, options, ids and files that they name are there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bundle_runs import ROOT

BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
DOCS = sorted((BUNDLE / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
REFERENCE = BUNDLE / "docs" / "reference.md"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

FENCED = re.compile(r"^```.*?^```", re.M | re.S)
INDENTED = re.compile(r"^ {4,}\S.*", re.M)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
LAUNCH = re.compile(r"\blaunch\.py ([a-z]+)\b([^`\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
RUN = re.compile(r"-m monai\.bundle run\b([^`\n]*)")
OVERRIDE = re.compile(r"(?<= --)[\w#]+(?= )")
NOT_IDS = {"config_file", "tracking"}
"""Options of `monai.bundle run` itself."""


def text_of(page: Path) -> str:
    """Of a page, with the lines of a command that go on after a backslash as one."""
    return re.sub(r"\s*\\\n\s*", " ", page.read_text(encoding="utf-8"))


def prose_of(page: Path) -> str:
    """Of a page, without its code."""
    return INDENTED.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors_of(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    anchors = set()
    for heading in HEADING.findall(prose_of(page)):
        slug = re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()).replace(" ", "-")
        anchors.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return anchors


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """The relative links of a page: the file that each leads to, and its anchor or ''."""
    for link in LINK.findall(prose_of(page)):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            yield ((page.parent / name).resolve() if name else page), anchor


@cache
def help_of(*verb: str) -> str:
    line = [sys.executable, "launch.py", *verb, "--help"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout


def verbs() -> set[str]:
    return set(re.findall(r"^ {4}([a-z]+)(?: |$)", help_of().partition("VERB\n")[2], re.M))


@cache
def parser_of(*configs: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / config) for config in configs])
    return parser


@each_page
def test_every_relative_link_and_anchor_leads_somewhere(page: Path):
    for target, anchor in links_of(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors_of(target), f"{target.name}#{anchor}"


def test_a_page_that_ships_links_to_nothing_outside_of_the_bundle():
    for page in DOCS:
        for target, _ in links_of(page):
            assert target.is_relative_to(BUNDLE), f"{page.name}: {target}"


def test_every_page_is_found_from_the_readme_and_from_the_model_card():
    for start in (ROOT / "README.md", BUNDLE / "docs" / "README.md"):
        assert set(DOCS) - {start} <= {target for target, _ in links_of(start)}, start


@each_page
def test_every_verb_and_option_of_the_launcher_is_one_that_it_has(page: Path):
    for verb, rest in LAUNCH.findall(text_of(page)):
        assert verb in verbs(), verb
        if verb != "test":  # whose options are pytest's
            options = set(OPTION.findall(rest))
            assert options <= set(OPTION.findall(help_of(verb))), f"{verb}: {options}"


def test_the_references_table_of_verbs_has_each_verb_and_its_options():
    rows = re.findall(r"^\| `([a-z]+)[^`]*` \| (.+)$", text_of(REFERENCE).partition("## Configs")[0], re.M)
    assert {verb for verb, _ in rows} == verbs()
    for verb, row in rows:
        assert verb == "test" or set(OPTION.findall(row)) <= set(OPTION.findall(help_of(verb))), verb


@each_page
def test_a_line_of_monai_bundle_run_overrides_ids_that_its_configs_have(page: Path):
    for line in RUN.findall(text_of(page)):
        configs = re.findall(r"configs/([\w]+\.json)", line)
        workflow = re.match(r" (\w+)", line)
        ids = set(OVERRIDE.findall(line)) - NOT_IDS | ({workflow[1]} if workflow else set())
        assert not configs or not [name for name in ids if name not in parser_of(*configs)], line


def test_the_ids_that_the_reference_lists_are_those_of_the_configs():
    sections = re.split(r"^##+ ", text_of(REFERENCE), flags=re.M)
    found = {name[1]: section for section in sections if (name := re.match(r"`([\w.]+)`\n", section))}
    known = {name: json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in found if name.endswith(".json")}
    known["network_def"] = known["train.json"]["network_def"]
    assert set(found) == set(known)
    for name, section in found.items():
        ids = [
            listed
            for cells in re.findall(r"^\| (`[^|]+) \|", section, re.M)
            for listed in re.findall(r"`(\w+)`", cells)
        ]
        assert ids and not [listed for listed in ids if listed not in known[name]], name


def test_the_reference_lists_every_config():
    listed = set(re.findall(r"`(\w+(?:\.(?:json|conf))?)`", text_of(REFERENCE).partition("### `train.json`")[0]))
    assert {path.name for path in CONFIGS.iterdir()} <= listed


@each_page
def test_benchmarks_tests_and_configs_that_a_page_names_are_there(page: Path):
    for name in re.findall(r"(?<![\w/])(?:benchmarks|tests|bundle/configs)/\w+\.\w+", text_of(page)):
        assert (ROOT / name).is_file(), name


def test_the_readmes_schedule_and_losses_are_those_of_the_configs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {name: cells.split(" | ") for name, cells in re.findall(r"^\| (schedule|loss) \| (.+) \|$", text, re.M)}
    terms = {"L1": "l1", "SSIM": "ssim", "VGG": "vgg", "gradient": "gradient", "DRR": "drr"}
    weights: dict[str, float] = {}
    for stage, (schedule, loss) in enumerate(zip(rows["schedule"], rows["loss"], strict=True), start=1):
        parser = parser_of("train.json", *([f"stage{stage}.json"] if stage > 1 else []))
        written = [float(number) for number in re.findall(r"\d[\d.e-]*", schedule)]
        assert written == [parser[name] for name in ("epochs", "learning_rate", "batch_size")]
        weights |= {terms[name]: float(weight) for weight, name in re.findall(r"([\d.]+) (\w+)", loss)}
        assert weights == {name: parser.get_parsed_content(f"loss#{name}") for name in weights}, stage


def test_the_version_is_the_same_wherever_it_stands():
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert cited and cited[1] == metadata["version"]
    changes = re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert changes == list(metadata["changelog"])
    assert set(re.findall(r"_v([\d.]+)\.zip|--version ([\d.]+)", text_of(REFERENCE))) == {
        (metadata["version"], ""),
        ("", metadata["version"]),
    }
