"""Liveness, readiness and metrics, for those who run the service."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from psycopg_pool import PoolTimeout
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketplace.api.browsing import browsable
from marketplace.jobs import metrics
from marketplace.jobs.models import ALIVE_WITHIN, Worker


@browsable
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@browsable
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 if the database and the broker answer and a warm worker was seen, else 503 with what is missing.

    `maintenance` names the periodic tasks that are late; jobs are taken all the same.
    """
    parts = {"database": database(), "broker": broker()}
    parts["worker"] = parts["database"] and warm_worker()
    ready = all(parts.values())
    words = {name: "ok" if up else "missing" for name, up in parts.items()}
    words["maintenance"] = maintenance() if parts["database"] else "missing"
    return JsonResponse({"status": "ready" if ready else "not ready", **words}, status=200 if ready else 503)


@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    body, media_type = metrics.page()
    return HttpResponse(body, content_type=media_type)


def database() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, PoolTimeout):
        return False
    return True


def broker() -> bool:
    try:
        with Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        ) as redis:
            return bool(redis.ping())
    except (RedisError, ValueError):
        return False


def warm_worker() -> bool:
    return Worker.objects.filter(warm=True, seen_at__gt=Now() - ALIVE_WITHIN).exists()


def maintenance() -> str:
    late = metrics.late()
    return f"late: {', '.join(late)}" if late else "ok"
