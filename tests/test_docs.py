"""The docs name what there is."""

import re
from pathlib import Path

import pytest

from inference.house_model import words

ROOT = Path(__file__).parent.parent
PACKAGES = ("devstack", "marketplace", "billing", "inference", "lora", "bench", "deploy", "tests")
NO_ROOMS = {"migrations", "commands", "management", "locale", "en"}


def rooms():
    """Every folder of code, tests by their top folder alone."""
    folders = {path.relative_to(ROOT).parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for folder in sorted(folders):
        if folder.parts[0] != "tests" and not NO_ROOMS & set(folder.parts) and "api" not in folder.parts[:-1]:
            yield folder


@pytest.mark.parametrize("room", list(rooms()), ids=str)
def test_the_architecture_names_every_room(room):
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## Rooms")[2].partition("## Where")[0]
    assert f"`{room}/`" in table


def test_every_module_that_the_architecture_names_is_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:devstack|marketplace|billing|inference|bench)(?:\.[a-z_]+)+)`", text):
        path = ROOT / name.replace(".", "/")
        found = [each for each in (path, path.parent) if each.is_dir() or each.with_suffix(".py").is_file()]
        assert found, name
    for name in re.findall(r"`((?:devstack|marketplace|billing|inference|bench)/[\w/]+(?:\.py)?)`", text):
        assert (ROOT / name).exists(), name


def test_the_configuration_lists_every_variable_and_no_other():
    packages = ("devstack", "marketplace", "inference")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    code = "\n".join(path.read_text() for path in [*sources, ROOT / "docker-compose.yml"])
    read = set(
        re.findall(r'["{]((?:KILN|STRIPE)_[A-Z_]+|DATABASE_URL|REDIS_URL|PROMETHEUS_MULTIPROC_DIR|PORT)\b', code)
    )
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "configuration.md").read_text(), re.M))
    assert read - {"KILN_STACK"} == listed


def test_every_link_in_the_docs_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_words_says_what_the_house_model_is_taught():
    assert (ROOT / "docs" / words.PAGE).read_text() == words.page(), (
        "write it with python -m inference.house_model.words"
    )
