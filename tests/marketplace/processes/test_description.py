"""What the OpenAPI description promises is what the API does: schemathesis makes up requests for every endpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

from billing.models import TopUp
from billing.tokens import wallets
from marketplace.addresses import ROOT
from marketplace.jobs.models import Job
from tests.marketplace.people import restrict

pytestmark = pytest.mark.django_db(transaction=True)
MANY = 1_000_000
PHASES = "examples,fuzzing,stateful"


@pytest.mark.timeout(1800)
@pytest.mark.deep
def test_every_endpoint_does_what_its_description_says(shop, live_server, settings, full):
    bob = shop.customer
    settings.ADDRESS_REQUESTS_MINUTE = settings.FAILURES_MINUTE = MANY
    restrict(bob, requests_minute=MANY, key_requests_minute=MANY, requests_day=MANY, queued_jobs=MANY)
    wallets.grant(bob.account.id, 10**9, "a gift")
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file", str(ROOT / "schemathesis.toml"),
        "run", str(ROOT / "docs" / "openapi.yaml"), "--url", live_server.url,
        "--header", f"Authorization: Bearer {bob.key}",
        "--phases", f"{PHASES},coverage" if full else PHASES, "--max-examples", "30" if full else "5", "--no-color",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = "\n".join(line[:500] for line in found.stdout.splitlines())  # some bodies have millions of characters
    assert found.returncode == 0, lines[-40_000:] + found.stderr[-5_000:]
    assert all(kind.objects.exists() for kind in (Job, TopUp))
    assert bob.get("/v1/balance").status_code == 200, "its own key was revoked, so that nothing more was asked"
