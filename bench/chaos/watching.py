"""Those who watch a job: its events must tell one story, whatever is killed, and end with what GET shows."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.chaos.answers import Http

PATIENCE_SECONDS = 6.0


class Watcher:
    """Watches one job at a time; `expect` is told what must be true, and what it means if it is not."""

    def __init__(self, http: Http, expect: Callable[[bool, str], None]) -> None:
        self.http, self.expect = http, expect

    def watch(self, job_id: str) -> str:
        """Follow a job's events for a while, coming back where the stream broke; return how it stood at last."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        last, standing, attempt = "", "nothing heard", 0
        while time.monotonic() < deadline:
            try:
                for name, event_id, data in self._events(job_id, last, deadline):
                    number = attempt if name == "ended" else int(event_id.split(".")[0])
                    # a worker that leaves gives its job back, and the attempt does not count
                    self.expect(number >= attempt - 1, f"job {job_id}: attempt {number} was told after {attempt}")
                    self.expect(event_id != last, f"job {job_id}: {event_id} was told twice")
                    last, attempt, standing = event_id, number, name
                    if name == "ended":
                        self._check(job_id, data)
                        return f"ended: {data['status']}"
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.2)
        return standing

    def _events(self, job_id: str, last: str, deadline: float) -> Iterator[tuple[str, str, Any]]:
        connection = http.client.HTTPConnection(self.http.address, timeout=PATIENCE_SECONDS)
        headers = {"Authorization": f"Bearer {self.http.key}", **({"Last-Event-ID": last} if last else {})}
        try:
            connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                self.expect(answer.status in {503, 502}, f"events of job {job_id} were answered {answer.status}")
                raise OSError(f"answered {answer.status}")
            fields: dict[str, str] = {}
            while time.monotonic() < deadline and (line := answer.readline()):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield fields["event"], fields["id"], json.loads(fields["data"])
                    fields = {}
        finally:
            connection.close()

    def _check(self, job_id: str, told: Any) -> None:
        shown = self.http.ask("GET", f"/v1/jobs/{job_id}").body
        same = all(told[name] == shown[name] for name in ("id", "status", "cost", "error", "receipt"))
        self.expect(same, f"job {job_id} ended as {told}, and is shown as {shown}")
