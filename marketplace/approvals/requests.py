"""Approval requests: asked for by one person and, above a limit, approved by another; each carried out once.

An act is carried out in the same transaction as its approval, or as its request if it needs no approval, so neither is
stored without the other. An act with a part outside our database is *approved* until `finish` has done that part, and a
refund that was *executed* has *failed* after all if the card's bank sends it back. The acts themselves are in `acts`.

ApprovalError
├── NotAllowed       this person may not ask for this, or may not decide
├── OwnRequest       the person who asked cannot approve or reject
├── AlreadyDecided   it was executed, rejected or expired before
└── Refused          it could not be carried out (Impossible, or billing refused)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Sum, TextField
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Now

from billing.errors import BillingError, IdempotencyMismatch, PaymentsRefused, PaymentsUnavailable
from billing.payments import refunds
from marketplace.accounts.models import Person
from marketplace.approvals import acts
from marketplace.approvals.act import Act, Impossible
from marketplace.approvals.models import Request
from marketplace.audit import trail
from marketplace.identifiers import uuid7

DAY = timedelta(hours=24)
# The process that approved tries to finish at once; only after this time does another one try.
FINISH_AFTER = timedelta(minutes=1)
DECIDE = "approvals.decide_request"
Status = Request.Status

logger = logging.getLogger(__name__)


class ApprovalError(Exception):
    """The root of the tree. Each message tells the operator what is wrong."""


class NotAllowed(ApprovalError):
    pass


class OwnRequest(ApprovalError):
    pass


class AlreadyDecided(ApprovalError):
    pass


class Refused(ApprovalError):
    pass


def ask(person: Person, act: Act, reason: str, request_id: UUID | None = None) -> Request:
    """Carry the act out, or leave it *pending* if it takes a second person; once for each `request_id`.

    Raises NotAllowed, Refused, or IdempotencyMismatch if the id was used for another request. Must not be called inside
    a transaction.
    """
    _must(person, act.permission)
    request_id = request_id or uuid7()
    with _refusals():
        check(act, request_id)
    with _refusals(), trail.acting(trail.name_of(person)):
        Person.objects.select_for_update(no_key=True).get(pk=person.pk)  # one at a time, so that the sum is right
        terms = {"kind": act.kind, "arguments": asdict(act), "reason": reason, "asked_by": person}
        more = {"size": act.size, "needs_approval": _takes_two(person, act), "asked_at": Now(), "expires_at": _end()}
        request, is_new = Request.objects.get_or_create(id=request_id, defaults=terms | more)
        request.refresh_from_db()
        if is_new and not request.needs_approval:
            _carry_out(request)
        elif not is_new and any(getattr(request, name) != value for name, value in terms.items()):
            raise IdempotencyMismatch(str(request.id))
    return finish(request)


def check(act: Act, request_id: UUID) -> None:
    """Check that an act could be carried out now. Raises Impossible if not, unless this id was asked for before.

    Must not be called inside a transaction: a check may take locks in another order than carrying out does.
    """
    try:
        act.check()
    except Impossible:
        if not Request.objects.filter(id=request_id).exists():
            raise


def approve(person: Person, request_id: UUID) -> Request:
    """Approve a request and carry it out. Raises NotAllowed, OwnRequest, AlreadyDecided, or Refused.

    A request that was Refused is still pending.
    """
    with _refusals(), _deciding(person, request_id) as request:
        _carry_out(request)
    return finish(request)


def reject(person: Person, request_id: UUID, note: str) -> Request:
    """Reject a request. Raises NotAllowed, OwnRequest or AlreadyDecided."""
    with _deciding(person, request_id) as request:
        request.status, request.note, request.ended_at = Status.REJECTED, note, request.decided_at
        request.save()
    return request


def finish(request: Request) -> Request:
    """Do what is left of an approved request, if anything; it stays *approved* if that cannot be done now."""
    if request.status != Status.APPROVED:
        return request
    try:
        status, outcome = Status.EXECUTED, act_of(request).finish(request.id)
    except PaymentsUnavailable as error:
        logger.warning("%s waits: %s", request, error)
        return request
    except PaymentsRefused as error:
        status, outcome = Status.FAILED, str(error)
    approved = Request.objects.filter(pk=request.pk, status=Status.APPROVED)
    approved.update(status=status, outcome=outcome, ended_at=Now())
    request.refresh_from_db()
    return request


def keep(now: datetime | None = None) -> None:
    """End requests that nobody decided in time, and finish approved ones whose process died."""
    moment = now or Now()
    late = Request.objects.filter(status=Status.PENDING, expires_at__lte=moment)
    late.update(status=Status.EXPIRED, ended_at=moment)
    for request in Request.objects.filter(status=Status.APPROVED, decided_at__lt=moment - FINISH_AFTER):
        try:
            finish(request)
        except Exception:
            logger.exception("%s", request)
    note_sent_back()


def note_sent_back() -> None:
    """Call those refunds failed that were executed and whose money the card's bank sent back later."""
    executed = Request.objects.filter(kind=acts.PaymentRefund.kind, status=Status.EXECUTED)
    for request in executed.annotate(key=Cast("id", TextField())).filter(key__in=refunds.sent_back().values("id")):
        outcome = f"{request.outcome}; the card's bank sent the money back, and the Tokens were returned"
        executed.filter(pk=request.pk).update(status=Status.FAILED, outcome=outcome, ended_at=Now())


def act_of(request: Request) -> Act:
    return acts.read(request.kind, request.arguments)


@contextmanager
def _deciding(person: Person, request_id: UUID) -> Iterator[Request]:
    """Lock the pending request and enter this person as the one who decided."""
    _must(person, DECIDE)
    with trail.acting(trail.name_of(person)):
        request = Request.objects.select_for_update().annotate(moment=Now()).get(pk=request_id)
        if request.status != Status.PENDING:
            raise AlreadyDecided(f"This request is already {request.status}.")
        if request.expires_at <= request.moment:
            raise AlreadyDecided("This request was not decided in time. Please ask again.")
        if request.asked_by_id == person.pk:
            raise OwnRequest("You asked for this; somebody else must decide.")
        request.decided_by, request.decided_at = person, request.moment
        yield request


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what an act or billing refuses into Refused, after the transaction was rolled back."""
    try:
        yield
    except IdempotencyMismatch:
        raise
    except (Impossible, BillingError) as error:
        raise Refused(str(error)) from error


def _carry_out(request: Request) -> None:
    act = act_of(request)
    request.outcome = act.carry_out(request.id)
    request.status = Status.APPROVED if act.has_finish else Status.EXECUTED
    request.decided_at = request.decided_at or request.asked_at
    request.ended_at = None if act.has_finish else request.decided_at
    request.save()


def _takes_two(person: Person, act: Act) -> bool:
    if act.limit is None:
        return True
    alone = Request.objects.filter(asked_by=person, kind=act.kind, needs_approval=False)
    alone = alone.filter(**act.counted_with)
    lately = alone.filter(asked_at__gt=Now() - DAY).exclude(status=Status.FAILED)
    return int(lately.aggregate(sum=Sum("size", default=0))["sum"]) + act.size > act.limit


def _end() -> Combinable:
    return Now() + timedelta(hours=settings.APPROVAL_HOURS)


def _must(person: Person, permission: str) -> None:
    if not (person.is_active and person.is_staff and person.has_perm(permission)):
        raise NotAllowed("You do not have permission to do this.")
