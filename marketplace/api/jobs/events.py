"""A job's life as server-sent events: where it stands, previews, and the job once it has ended."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from marketplace.accounts.authentication import caller
from marketplace.api import tales
from marketplace.api.bodies import Body
from marketplace.api.fields import Text, Whole
from marketplace.api.jobs import bodies
from marketplace.api.jobs.bodies import ProgressBody
from marketplace.api.problems import not_found
from marketplace.api.tales import Tale, TaleView
from marketplace.jobs import turns
from marketplace.jobs.models import Image, Job
from marketplace.jobs.news import Preview
from marketplace.jobs.states import State

EXAMPLE = """retry: 2000

id: 0.queued.1
event: queued
data: {"status":"queued","queue_position":1}

id: 1.running.5
event: running
data: {"status":"running","progress":{"step":5,"steps":20}}

id: 1.preview.0.5
event: preview
data: {"index":0,"step":5,"image":"data:image/jpeg;base64,…"}

id: ended
event: ended
data: {"id":"01a1fc35-d9b0-7c28-b357-b63e93188538","status":"succeeded", …}

"""


class RunningEvent(Body):
    status = Text()
    progress = ProgressBody(of="row")


class PreviewEvent(Body):
    index = Whole()
    step = Whole()
    image = Text(given=True)


class JobEvents(TaleView):
    @tales.described("job", EXAMPLE)
    def get(self, request: Request, job_id: UUID) -> HttpResponse:
        """Tells where the job stands, at once and whenever that changes, with small previews, until it has ended.

        Events are `queued` with `queue_position`, `running` with `progress`, `preview` with `index`, `step` and a small
        picture as a data URL, and `ended` with the job as `GET /v1/jobs/{id}` shows it, after which the stream ends.
        Comments keep the connection open. A stream may end early; come back with `Last-Event-ID`.
        """
        job = Job.objects.filter(account_id=caller(request).account_id, id=job_id).first()
        if job is None:
            raise not_found("job")
        state = None if job.is_final else State.of(job, turns.queue_position(job))
        return JobTale(request, job_id).answer(job_id, job.account_id, state)


class JobTale(Tale):
    def __init__(self, request: Request, job_id: UUID) -> None:
        super().__init__(request)
        self.request = request._request
        self.job_id = job_id

    def running(self, state: State) -> dict[str, Any]:
        return RunningEvent.show(state)

    def preview(self, preview: Preview) -> bytes:
        shown = PreviewEvent.show(preview, image=f"data:image/jpeg;base64,{preview.jpeg}")
        return tales.event("preview", f"{preview.attempt}.preview.{preview.index}.{preview.step}", shown)

    def ended(self) -> dict[str, Any]:
        """Show the job as it is now, pictures and cost included."""
        job = Job.objects.get(id=self.job_id)
        return bodies.show(job, list(Image.objects.filter(job_id=job.id)), self.request)
