"""Jobs and quotes over HTTP: parse, call one verb, show."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.accounts import keys
from marketplace.accounts.authentication import ApiKeyAuthentication, caller
from marketplace.api.bodies import ObjectParser
from marketplace.api.headers import DESCRIBED_KEY, MAX_WAIT, idempotency_key, preferred_wait
from marketplace.api.jobs import bodies, examples, schemas
from marketplace.api.jobs.bodies import JobBody, JobList, QuoteBody
from marketplace.api.jobs.schemas import JobListQuery, OrderSerializer
from marketplace.api.later import Answer, Waiting
from marketplace.api.pages import page
from marketplace.api.problems import not_found
from marketplace.audit import trail
from marketplace.jobs import forgetting, lifecycle, submission, turns
from marketplace.jobs.models import Image, Job


class Quotes(APIView):
    parser_classes = [ObjectParser]

    @extend_schema(request=OrderSerializer, responses={200: QuoteBody}, examples=examples.quoted, summary="Price a job")
    def post(self, request: Request) -> Response:
        """What a job would cost, factor by factor. Nothing is stored or held."""
        order = schemas.order(request.data, caller(request).account_id)
        return Response(QuoteBody.show(submission.quote(order).as_json()))


class Jobs(APIView):
    parser_classes = [ObjectParser]

    def get_authenticators(self) -> list[BaseAuthentication]:
        buying = getattr(self.request, "method", "") == "POST"  # no request while the schema is made
        return [ApiKeyAuthentication(keys.recall)] if buying else super().get_authenticators()

    @extend_schema(
        request=OrderSerializer,
        responses={200: JobBody, 202: JobBody},
        examples=examples.bought,
        summary="Buy pictures",
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                DESCRIBED_KEY,
                "header",
                description="Sent again with the same body, it buys nothing more.",
            ),
            OpenApiParameter(
                "Prefer",
                str,
                "header",
                description=f"`wait=N`: 200 with the job once it has ended, or 202 after N ≤ {MAX_WAIT} seconds.",
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Holds the price and queues the job. Watch its events, poll the `Location`, or send `Prefer: wait=60`."""
        key, wait = idempotency_key(request), preferred_wait(request)
        order = schemas.order(request.data, caller(request).account_id, key=key)
        submitted = submission.submit(
            caller(request).account_id, order, key_id=caller(request).key_id, idempotency_key=key
        )
        job, position = submitted.job, submitted.queue_position
        headers = {"Location": f"/v1/jobs/{job.id}"}
        if submitted.replayed:
            headers["Idempotent-Replayed"] = "true"
        response = Response(one(job, request, position), status=202, headers=headers)
        if wait:
            response.later = Waiting(job.id, job.account_id, wait, lambda: _waited(job.id, request))  # type: ignore[attr-defined]
        return response

    @extend_schema(parameters=[JobListQuery], responses={200: JobList}, summary="List jobs, newest first")
    def get(self, request: Request) -> Response:
        query = JobListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        mine = Job.objects.filter(account_id=caller(request).account_id).order_by("-id")
        if status := query.validated_data.get("status"):
            mine = mine.filter(status=status)
        rows, following = page(mine.prefetch_related("images"), query.validated_data)
        data = [bodies.show(row, list(row.images.all()), request._request) for row in rows]
        return Response(JobList.show(data=data, next_cursor=following))


class OneJob(APIView):
    @extend_schema(responses={200: JobBody}, examples=examples.seen, summary="See a job")
    def get(self, request: Request, job_id: UUID) -> Response:
        job = Job.objects.filter(account_id=caller(request).account_id, id=job_id).first()
        if job is None:
            raise not_found("job")
        return Response(one(job, request))

    @extend_schema(responses={204: None}, summary="Forget a job")
    def delete(self, request: Request, job_id: UUID) -> Response:
        """Its prompts, pictures, inputs, labels and cached latents are removed; what it cost and when stays.

        The job is still seen, with `forgotten_at`, and so is its receipt. Only once it has ended: cancel it first.
        """
        account_id = caller(request).account_id
        with trail.acting(f"account {account_id}"):
            job = forgetting.forget(account_id, job_id)
        forgetting.erase(job)
        return Response(status=204)


class CancelJob(APIView):
    @extend_schema(request=None, responses={200: JobBody}, summary="Cancel a job")
    def post(self, request: Request, job_id: UUID) -> Response:
        """A queued job ends at once for nothing; a running one stops at its next step, a second or two later.

        Pictures that have all their steps by then are delivered and cost what they would have; the others cost the
        steps done. The job shows before what that comes to (`cancel_cost`), and after that it was asked for
        (`cancel_requested_at`). A job whose pictures were all finished has succeeded.
        """
        return Response(one(lifecycle.cancel(caller(request).account_id, job_id), request))


def one(job: Job, request: Request, position: int | None = None) -> dict[str, Any]:
    images = list(Image.objects.filter(job_id=job.id)) if job.is_final else []
    return bodies.show(job, images, request._request, position or turns.queue_position(job))


def _waited(job_id: UUID, request: Request) -> Answer:
    """Return the answer to an order that waited for its job: 200 if it has ended, else 202."""
    job = Job.objects.get(id=job_id)
    if job.is_final:
        return Answer(200, one(job, request), {"Preference-Applied": "wait"})
    return Answer(202, one(job, request))
