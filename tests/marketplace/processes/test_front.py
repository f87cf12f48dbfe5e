"""The front before both servers: one address, where a real job is watched and waited for, whatever is stopped."""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import signal
import socket
import time
from pathlib import Path

import pytest
from django.conf import settings
from PIL import Image as Pixels
from redis import Redis

from devstack import processes
from marketplace.jobs.models import Job
from marketplace.trainings import lifecycle
from tests.marketplace.sites import Site
from tests.marketplace.streams.servers import read
from tests.marketplace.trainings import making

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ORDER = {"prompt": "a red circle on a white background", "width": 128, "height": 128, "steps": 40, "seed": 7}


@pytest.fixture
def site(tmp_path, transactional_db):
    """Web server, the one that waits, and the front."""
    Redis.from_url(settings.REDIS_URL).flushall()
    found = Site(tmp_path)
    try:
        for name in ("web", "streams"):
            found.start(name)
        assert processes.wait_until(lambda: answers(found.ports.web) and answers(found.ports.streams), 90), found.logs()
        found.start("front")  # which would otherwise take the second for dead, for a second or so
        assert processes.wait_until(lambda: answers(found.ports.front), 30), found.logs()
        yield found
    finally:
        found.stop()


def answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


class Client:
    """A customer at the front."""

    def __init__(self, site, customer):
        self.port = site.ports.front
        self.key = customer.key

    def ask(self, method, path, body=None, **headers):
        """The answer, not read yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.suppress(BrokenPipeError):  # refused before all was sent: the answer is there, as for urllib3
            connection.request(method, path, data, named)
        return connection.getresponse()

    def json(self, *asked, **headers):
        with self.ask(*asked, **headers) as answer:
            return answer.status, json.loads(answer.read())


def threads(child):
    """Of a server's own processes, all together."""
    family = [child.pid, *map(int, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split())]
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in family)


@pytest.mark.deep
def test_a_real_job_is_watched_and_waited_for_through_the_front(site, alice):
    for name in ("dispatcher", "worker"):
        site.start(name)
    client = Client(site, alice)
    status, job = client.json("POST", "/v1/jobs", ORDER | {"width": 256, "height": 256, "n": 2})
    assert status == 202
    stream = client.ask("GET", f"/v1/jobs/{job['id']}/events", Accept="text/event-stream")
    assert stream.status == 200
    assert stream.headers["X-Accel-Buffering"] == "no"
    site.warm()
    events = read(stream.read())
    names = [event["event"] for event in events]
    assert names[0] == "queued"
    assert set(names) == {"queued", "running", "preview", "ended"}
    steps = [event["data"]["progress"]["step"] for event in events if event["event"] == "running"]
    assert steps == sorted(steps)
    assert steps[-1] > 0
    preview = next(event for event in events if event["event"] == "preview")["data"]
    assert preview["image"].startswith("data:image/jpeg;base64,/9j/")
    last = events[-1]["data"]
    assert (last["status"], last["cost"]["captured"]) == ("succeeded", job["cost"]["quoted"])

    answer = client.ask("POST", "/v1/jobs", ORDER, Prefer="wait=60", X_Request_Id="mine")
    body = json.loads(answer.read())
    assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait")
    assert answer.headers["X-Request-Id"] == "mine"
    assert body["status"] == "succeeded"
    url = body["images"][0]["url"]
    assert url.startswith(f"http://127.0.0.1:{site.ports.front}/images/")
    picture = client.ask("GET", url.partition(str(site.ports.front))[2]).read()
    assert hashlib.sha256(picture).hexdigest() == body["images"][0]["sha256"]
    assert client.json("GET", "/v1/jobs/01a1fc35-d9b0-7c28-b357-b63e93188538/events")[0] == 404


def test_a_training_is_watched_until_its_end_through_the_front(site, alice):
    training = making.submit(alice).training
    stream = Client(site, alice).ask("GET", f"/v1/trainings/{training.id}/events")
    said = stream.readline()
    while b"queue_position" not in said:
        said = stream.readline()
    lifecycle.cancel(alice.account.id, training.id)
    assert [event["event"] for event in read(stream.read().lstrip())] == ["ended"]


def test_what_is_sent_meets_the_same_limits_through_the_front(site, alice):
    client = Client(site, alice)
    packed = gzip.compress(json.dumps(ORDER).encode())
    assert client.json("POST", "/v1/jobs", packed, Content_Encoding="gzip")[0] == 202
    assert client.json("POST", "/v1/jobs", packed, Content_Encoding="gzip", Prefer="wait=1")[0] == 202
    status, body = client.json("POST", "/v1/keys", b"x" * 70_000)
    assert (status, body["error"]["code"]) == (413, "body_too_large")
    status, body = client.json("GET", "/v1/jobs", **{"X-Long": "x" * 12_000})
    assert status == 200
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.front, timeout=10)
    connection.request("GET", "/healthz", headers={"X_Request_Id": "disguised", "X_Forwarded_For": "1.2.3.4"})
    assert connection.getresponse().headers["X-Request-Id"].startswith("req_")
    with socket.create_connection(("127.0.0.1", site.ports.front)) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 431")
    assert Job.objects.count() == 2


def test_a_file_is_received_through_the_front(site, alice):
    client = Client(site, alice)
    picture = drawn()
    form = (
        b'--line\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + picture
        + b"\r\n--line--\r\n"
    )
    status, body = client.json("POST", "/v1/files", form, Content_Type="multipart/form-data; boundary=line")
    assert (status, body.get("width")) == (201, 300), body
    large = client.json(
        "POST", "/v1/files", form + b"x" * (11 * 1024**2), Content_Type="multipart/form-data; boundary=line"
    )
    assert (large[0], large[1]["error"]["code"]) == (413, "body_too_large")


def drawn():
    content = io.BytesIO()
    Pixels.effect_noise((300, 300), 80).convert("RGB").save(content, "PNG")
    assert content.tell() > 64 * 1024
    return content.getvalue()


def test_fifty_streams_take_no_thread_each_and_end_at_once_with_the_server(site, alice):
    client = Client(site, alice)
    job = client.json("POST", "/v1/jobs", ORDER)[1]
    path = f"/v1/jobs/{job['id']}/events"
    for _ in range(10):
        client.json("GET", f"/v1/jobs/{job['id']}")
        client.ask("GET", path).close()
    before = threads(site.children["streams"])
    streams = [client.ask("GET", path) for _ in range(50)]
    assert all(stream.status == 200 for stream in streams)
    assert threads(site.children["streams"]) <= before + 8
    began = time.monotonic()
    site.kill("streams", signal.SIGTERM)
    assert {tuple(event["event"] for event in read(stream.read())) for stream in streams} == {("queued",)}
    assert time.monotonic() - began < 4, "they were cut off when their time was over"

    # meanwhile the web server answers without waiting
    events = read(client.ask("GET", path).read())
    assert [event["event"] for event in events] == ["queued"]
    answer = client.ask("POST", "/v1/jobs", ORDER, Prefer="wait=60")
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, None)
    site.start("streams")
    assert processes.wait_until(lambda: answers(site.ports.streams), 60)
    client.json("POST", f"/v1/jobs/{job['id']}/cancel")
    heard = []

    def ended():
        """Comes back as clients do: the front needs a moment to see that the server is there again."""
        heard.extend(read(client.ask("GET", path, Last_Event_ID=events[-1]["id"]).read()))
        return heard

    assert processes.wait_until(ended, 20)
    assert [event["event"] for event in heard] == ["ended"]


def test_what_one_client_breaks_takes_nothing_from_others(site, alice):
    """A body that is cut off, is too large, or comes in broken chunks fails before the server can answer it."""
    client = Client(site, alice)
    job = client.json("POST", "/v1/jobs", ORDER)[1]
    head = "POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\n"
    for broken in (f"{head}Content-Length: 5000\r\n\r\ncut", f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"):
        with socket.create_connection(("127.0.0.1", site.ports.front), timeout=10) as stranger:
            stranger.sendall(broken.encode())
        time.sleep(0.2)
        began = time.monotonic()
        answer = client.ask("POST", "/v1/jobs", ORDER, Prefer="wait=2")
        assert (answer.status, time.monotonic() - began > 1) == (202, True), "nobody waited for it"
    client.json("POST", f"/v1/jobs/{job['id']}/cancel")


def test_a_server_that_is_started_again_is_waited_for_and_one_that_is_away_is_an_error_of_the_api(site, alice):
    client = Client(site, alice)
    site.kill("web", signal.SIGTERM)
    status, body = client.json("GET", "/v1/balance")
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert body["error"]["request_id"].startswith("req_")
    site.start("web")
    assert processes.wait_until(lambda: client.json("GET", "/v1/balance")[0] == 200, 60)


def test_what_strangers_may_not_see_is_hidden_where_that_is_set(site, alice, monkeypatch):
    client = Client(site, alice)
    assert client.ask("GET", "/metrics").status == 200
    site.kill("front", signal.SIGTERM)
    monkeypatch.setenv("KILN_HIDDEN", "/metrics /readyz")
    site.start("front")
    assert processes.wait_until(lambda: answers(site.ports.front), 30)
    assert client.ask("GET", "/metrics").status == 404
    assert client.ask("GET", "/readyz").status == 404
    assert client.json("GET", "/v1/balance")[0] == 200
