"""The Celery application: three queues for jobs, one for maintenance, and messages that only name a row.

The database row is the truth and a message only wakes a worker, so results are not kept.
"""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab
from kombu import Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

from django.conf import settings

# The anonymous exchange delivers straight to the queue of that name. A named exchange keeps its
# bindings in Redis, and after a flush Redis would refuse every message.
DIRECT = Exchange("", type="direct")
SERVICE_CLASSES = ("interactive", "standard", "batch")
MAINTENANCE = "maintenance"
LOTS_SECONDS = REQUESTS_SECONDS = 60
ROLL_UP_SECONDS = 300
PAYMENTS_SECONDS = 15

app = Celery("kiln")
app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        # Far longer than the longest job: lost messages are sent again by the sweeper, not by the broker.
        "visibility_timeout": 24 * 3600,
        "priority_steps": [0],
        "queue_order_strategy": "marketplace.jobs.queues:StrideOrder",
        "socket_connect_timeout": 5,
        "retry_on_timeout": True,
    },
    task_queues=[Queue(name, exchange=DIRECT, routing_key=name) for name in (*SERVICE_CLASSES, MAINTENANCE)],
    task_default_queue=MAINTENANCE,
    task_default_exchange="",
    task_default_routing_key=MAINTENANCE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    timezone="UTC",
    beat_schedule={
        "sweep": {
            "task": "marketplace.jobs.tasks.sweep",
            "schedule": settings.SWEEP_SECONDS,
            "options": {"expires": settings.SWEEP_SECONDS, "queue": MAINTENANCE},
        },
        "keep_lots": {
            "task": "marketplace.jobs.tasks.keep_lots",
            "schedule": LOTS_SECONDS,
            "options": {"expires": LOTS_SECONDS, "queue": MAINTENANCE},
        },
        "roll_up": {
            "task": "marketplace.jobs.tasks.roll_up",
            "schedule": ROLL_UP_SECONDS,
            "options": {"expires": ROLL_UP_SECONDS, "queue": MAINTENANCE},
        },
        "reconcile_payments": {
            "task": "marketplace.jobs.tasks.reconcile_payments",
            "schedule": crontab(minute="17"),
            "options": {"expires": 3600, "queue": MAINTENANCE},
        },
        "keep_payments": {
            "task": "marketplace.jobs.tasks.keep_payments",
            "schedule": PAYMENTS_SECONDS,
            "options": {"expires": PAYMENTS_SECONDS, "queue": MAINTENANCE},
        },
        "keep_requests": {
            "task": "marketplace.jobs.tasks.keep_requests",
            "schedule": REQUESTS_SECONDS,
            "options": {"expires": REQUESTS_SECONDS, "queue": MAINTENANCE},
        },
        "anchor_audit": {
            "task": "marketplace.jobs.tasks.anchor_audit",
            "schedule": crontab(hour="3", minute="47"),
            "options": {"expires": 3600, "queue": MAINTENANCE},
        },
    },
)
app.autodiscover_tasks(["marketplace.jobs", "marketplace.maintenance"])
