"""A training's life as server-sent events: where it stands, and the training once it has ended."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from marketplace.accounts.authentication import caller
from marketplace.api import tales
from marketplace.api.bodies import Body
from marketplace.api.fields import Text, Whole
from marketplace.api.problems import not_found
from marketplace.api.tales import Tale, TaleView
from marketplace.api.trainings import schemas
from marketplace.api.trainings.schemas import TrainingProgressBody
from marketplace.trainings import states
from marketplace.trainings.models import Training
from marketplace.trainings.states import TrainingState

EXAMPLE = """retry: 2000

id: 0.queued.1
event: queued
data: {"status":"queued","queue_position":1}

id: 1.running.50
event: running
data: {"status":"running","progress":{"step":50,"steps":1200,"loss":0.21,"seconds_left":690},"measured":50}

id: ended
event: ended
data: {"id":"01a1fc35-d9b0-7c28-b357-b63e93188538","status":"succeeded", …}

"""


class TrainingRunningEvent(Body):
    status = Text()
    progress = TrainingProgressBody(of="row")
    measured = Whole(of="row.evaluated", allow_null=True)


class TrainingEvents(TaleView):
    @tales.described("training", EXAMPLE)
    def get(self, request: Request, training_id: UUID) -> HttpResponse:
        """Tells where the training stands, at once and whenever that changes, until it has ended.

        Events are `queued` with `queue_position`, `running` with `progress` (its loss and the seconds left) and the
        last step that was `measured`, whose samples can be downloaded then, and `ended` with the training as
        `GET /v1/trainings/{id}` shows it.
        """
        found = Training.objects.filter(account_id=caller(request).account_id, id=training_id).first()
        if found is None:
            raise not_found("training")
        state = None if found.is_final else states.look([training_id])[training_id]
        return TrainingTale(request, training_id).answer(training_id, found.account_id, state)


class TrainingTale(Tale):
    def __init__(self, request: Request, training_id: UUID) -> None:
        super().__init__(request)
        self.training_id = training_id

    def running(self, state: TrainingState) -> dict[str, Any]:
        return TrainingRunningEvent.show(state)

    def ended(self) -> dict[str, Any]:
        return schemas.show(Training.objects.select_related("adapter", "tier", "version").get(id=self.training_id))
