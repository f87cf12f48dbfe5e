"""What the OpenAPI description promises is what the API does: schemathesis makes up requests for every endpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

from billing.tokens import wallets

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.timeout(1800)
def test_every_endpoint_does_what_its_description_says(shop, live_server, full):
    bob = shop.customer
    wallets.grant(bob.account.id, 10**9, "a gift")
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run", f"{live_server.url}/api/schema", "--header", f"Authorization: Bearer {bob.key}",
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "30" if full else "3",
        "--seed", "1", "--generation-database", "none", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
