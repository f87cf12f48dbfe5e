"""Production starts the same commands as the embedded stack."""

import sys
from pathlib import Path

import pytest
import yaml

from devstack import parts
from marketplace.addresses import ROOT

IN_CONTAINERS = {
    sys.executable: "python",
    str(ROOT / "manage.py"): "manage.py",
    "127.0.0.1": "0.0.0.0",
    str(parts.CADDY): "caddy",
    str(ROOT / "deploy" / "Caddyfile"): "/etc/caddy/Caddyfile",
}
PORTS = parts.Ports(front=8000, web=8000, streams=8000)  # each has a container of its own
HOME = Path("/var/lib/kiln")


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_docker_compose_starts_what_the_embedded_stack_starts(services, monkeypatch):
    monkeypatch.setenv("KILN_WEB_PROCESSES", "2")  # a container's share of a machine is not known here
    ours = {part.name: [IN_CONTAINERS.get(word, word) for word in part.command] for part in parts.parts(HOME, PORTS)}
    theirs = {name: services[name]["command"] for name in ours}
    assert theirs == ours
    assert services["worker-gpu"]["command"] == ours["worker"]


def test_the_front_has_the_same_settings_in_containers(services):
    (front,) = [part for part in parts.parts(HOME, PORTS) if part.name == "front"]
    theirs = services["front"]["environment"]
    assert {name for name in front.settings if name.startswith("KILN_")} <= theirs.keys()
    assert (theirs["KILN_FRONT_PORT"], theirs["KILN_WEB"]) == ("8000", "web:8000")
    assert theirs["KILN_STREAMS_SERVER"] == "streams:8000"
    assert "ports" not in services["web"]
    assert "ports" not in services["streams"]


def test_docker_gives_each_part_as_long_to_end(services):
    grace = {name: int(service.get("stop_grace_period", "10s").rstrip("s")) for name, service in services.items()}
    assert all(grace[part.name] >= part.drain for part in parts.parts(HOME, PORTS))


def test_the_image_alone_is_the_web_server(services):
    command = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()[-1]
    assert command == "CMD [" + ", ".join(f'"{word}"' for word in services["web"]["command"]) + "]"


def test_the_front_takes_every_body_that_kiln_takes(services):
    from marketplace.api.middleware import WITH_PICTURES, most_bytes

    largest = max(*map(most_bytes, WITH_PICTURES), most_bytes("/v1/adapters", "multipart/form-data; boundary=x"))
    assert parts.most_mebibytes() * 1024**2 >= largest
    assert f":-{parts.most_mebibytes()}" in services["front"]["environment"]["KILN_BODY_MB"]
