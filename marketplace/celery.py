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
# The periodic tasks, and how many seconds lie between two turns of each.
PERIODS = {
    "sweep": settings.SWEEP_SECONDS,
    "keep_lots": 60,
    "roll_up": 300,
    "close_months": 300,
    "keep_payments": 15,
    "keep_payouts": 60,
    "keep_requests": 60,
    "keep_files": 300,
    "keep_market": 60,
    "keep_trainings": settings.SWEEP_SECONDS,
    "keep_adapters": 5,
    "watch_balances": 15,
    "keep_deliveries": 3600,
    "keep_forgetting": 60,
    "reconcile_payments": 3600,
    "anchor_audit": 24 * 3600,
}
# Those with a time of their own.
TIMES = {"reconcile_payments": crontab(minute="17"), "anchor_audit": crontab(hour="3", minute="47")}

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
        # A Redis that hangs must not keep a periodic task for ever, beside which no other turn of it may run.
        "socket_timeout": 30,
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
    # Without `expires`, which would compare the clocks of two machines: a task that finds itself running ends at once.
    beat_schedule={
        name: {"task": f"marketplace.jobs.tasks.{name}", "schedule": TIMES.get(name, seconds)}
        for name, seconds in PERIODS.items()
    },
)
app.autodiscover_tasks(["marketplace.jobs", "marketplace.maintenance"])
