"""Every block of docs/quickstart.md does what it says, against a whole site."""

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image
from standardwebhooks import Webhook

from marketplace.addresses import ROOT

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
OTHER, SECRET = (f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}" for _ in range(2))
RUN = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "js": ["node"]}
SUFFIX = {"sh": "sh", "python": "py", "js": "mjs"}
SECTIONS = {
    title: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    for title, text in re.findall(r"^##? (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}


def code(section, language):
    """The blocks of a section, as one program."""
    return "\n".join(block for found, block in SECTIONS[section] if found == language)


def run(language, program, folder, **environment):
    """What a program prints."""
    if shutil.which(RUN[language][0]) is None:
        pytest.skip(f"there is no {RUN[language][0]}")
    (folder / f"program.{SUFFIX[language]}").write_text(program)
    command = [*RUN[language], f"program.{SUFFIX[language]}"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def bought(site, alice, tmp_path):
    """Runs a section of the page and returns what it printed, once what it bought is as the page says."""

    def try_it(section, language, before=""):
        url = f"http://127.0.0.1:{site.ports.front}"
        said = run(language, before + code(section, language), tmp_path, KILN_URL=url, KILN_KEY=alice.key)
        jobs = alice.get("/v1/jobs").json()["data"]
        assert [(job["operation"], job["status"]) for job in jobs] == [("edit", "succeeded"), ("generate", "succeeded")]
        assert Image.open(tmp_path / "circle.png").size == (128, 128)
        return said

    return try_it


def test_no_block_is_left_out():
    run_here = {("With curl", "sh"), ("With OpenAI's client", "python"), ("With Python", "python")}
    run_here |= {("With JavaScript", "js"), ("Webhooks", "python"), ("Webhooks", "js"), ("Quickstart", "sh")}
    shown = {("With a generated client", "text")}
    assert {(title, language) for title, blocks in SECTIONS.items() for language, _ in blocks} == run_here | shown
    assert PAGE.count("\n```") == 2 * sum(map(len, SECTIONS.values()))


@pytest.mark.timeout(300)
def test_curl(bought, tmp_path):
    said = bought("With curl", "sh", before=code("Quickstart", "sh"))
    assert '"total":' in said
    assert '"code":"invalid_value"' in said.replace(" ", "")
    assert json.loads((tmp_path / "edit.json").read_text())["images"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("section", "language"), [("With OpenAI's client", "python"), ("With Python", "python"), ("With JavaScript", "js")]
)
@pytest.mark.deep
def test_a_program(bought, section, language, tmp_path):
    said = bought(section, language)
    red, blue = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("circle", "blue"))
    circle = red[..., 0] - red[..., 2] > 100
    assert circle.sum() > 200
    assert (blue[circle][:, 2] > blue[circle][:, 0]).mean() > 0.9
    assert re.search(r"invalid_value (width|size)", said)


@pytest.mark.parametrize("language", ["python", "js"])
def test_webhooks_are_verified(language, tmp_path):
    body, moment = '{"type": "webhook.test", "data": {}}', datetime.now(UTC)
    signature = " ".join(Webhook(secret).sign("msg_1", moment, body) for secret in (OTHER, SECRET))
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(moment.timestamp())), "webhook-signature": signature}
    given = json.dumps(body), json.dumps(headers), json.dumps(headers | {"webhook-id": "msg_2"})
    tried = {
        "python": """
print(receive({0}, {1})["type"])
try:
    receive({0}, {2})
except WebhookVerificationError:
    print("refused")
""",
        "js": """
console.log(receive({0}, {1}).type);
try {{
  receive({0}, {2});
}} catch {{
  console.log("refused");
}}
""",
    }[language].format(*given)
    said = run(language, code("Webhooks", language) + tried, tmp_path, KILN_WEBHOOK_SECRET=SECRET)
    assert said.split() == ["webhook.test", "refused"]
