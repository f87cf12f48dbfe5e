"""The docs name what there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("devstack", "marketplace", "billing", "inference", "lora", "bench", "deploy")


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.stem not in ("__init__", "apps") and "migrations" not in path.parts:
                yield path.relative_to(ROOT)


@pytest.mark.parametrize("module", list(modules()), ids=str)
def test_the_architecture_names_every_module(module):
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert f"| `{module}` | " in text


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
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
