"""Large files take room while they arrive: they are read from those alone who are known, and a few at once."""

import time
from types import SimpleNamespace

import pytest

from marketplace.streams import application
from tests.marketplace.streams import servers

pytestmark = pytest.mark.django_db(transaction=True)
LARGE = {"Content_Type": "multipart/form-data; boundary=edge", "Content_Length": str(application.LARGE + 1)}


@pytest.fixture
def server(transactional_db, monkeypatch):
    monkeypatch.setattr(application, "DRAIN_SECONDS", 0.1)
    with servers.serving() as found:
        yield found


def send(server, customer, path="/v1/adapters", **headers):
    """Begin to send a large file, of which nothing arrives yet."""
    return server.ask("POST", path, customer, arrives=False, **{**LARGE, **headers})


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def receiving(server):
    return server.application._large.total()


def test_a_large_body_of_whoever_is_not_known_is_not_read(server):
    nobody = SimpleNamespace(key="kiln_nobody_nothing")
    answer = send(server, nobody).done()
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert receiving(server) == 0


def test_a_few_large_bodies_are_received_at_once_and_fewer_of_one_key(server, alice, bob):
    begun = [send(server, alice) for _ in range(application.LARGE_OF_KEY)]
    until(lambda: receiving(server) == len(begun))
    refused = send(server, alice).done()
    assert (refused.status, refused.json()["error"]["code"]) == (503, "busy")
    other = send(server, bob)
    until(lambda: receiving(server) == len(begun) + 1)
    for each in [*begun, other]:
        each.leave()
    until(lambda: receiving(server) == 0)
    again = send(server, alice)
    until(lambda: receiving(server) == 1)
    server.loop.call_soon_threadsafe(again.incoming.put_nowait, {"type": "http.request", "body": b""})
    assert again.done().status == 422
    assert receiving(server) == 0


def test_no_more_than_so_many_large_bodies_in_all(server, alice, bob, monkeypatch):
    monkeypatch.setattr(application, "LARGE_AT_ONCE", 1)
    first = send(server, alice)
    until(lambda: receiving(server) == 1)
    assert send(server, bob).done().status == 503
    first.leave()


def test_a_body_that_is_too_large_is_refused_wherever_it_goes(server, alice):
    assert send(server, alice, path="/v1/files").done().status == 413
    assert send(server, alice, Content_Length=str(2**40)).done().status == 413
    assert send(server, alice, Content_Type="application/json").done().status == 413
