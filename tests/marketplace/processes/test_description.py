"""What the OpenAPI description promises is what the API does: schemathesis makes up requests for every endpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

from billing.tokens import wallets
from marketplace.addresses import ROOT

pytestmark = pytest.mark.django_db(transaction=True)
PHASES = "examples,fuzzing,stateful"


@pytest.mark.timeout(1800)
def test_every_endpoint_does_what_its_description_says(shop, live_server, tmp_path, full):
    bob = shop.customer
    wallets.grant(bob.account.id, 10**9, "a gift")
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file", str(ROOT / "schemathesis.toml"),
        "run", f"{live_server.url}/api/schema", "--header", f"Authorization: Bearer {bob.key}",
        "--phases", f"{PHASES},coverage" if full else PHASES, "--max-examples", "30" if full else "5", "--no-color",
        "--exclude-path-regex", "^/v1/images/",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
    assert bob.get("/v1/balance").status_code == 200, "its own key was revoked, so that nothing more was asked"
