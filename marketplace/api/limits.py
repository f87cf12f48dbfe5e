"""Limits at the edge: every request under /v1 is counted, and told where its caller stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from marketplace.accounts import tiers
from marketplace.accounts.authentication import Caller, caller
from marketplace.accounts.tiers import Limits
from marketplace.limits import addresses, shares
from marketplace.limits.counts import Wanted
from marketplace.limits.policies import MINUTE, Policy, Standing, policies_header, standings_header


class Throttle(BaseThrottle):
    """A caller is counted by account and API key, with what is sent if that is much; whoever has none, by address."""

    def allow_request(self, request: Request, view: object) -> bool:
        """Return True. Raises LimitReached."""
        found = request._request
        found.standings = shares.take(_wanted(request))  # type: ignore[attr-defined]
        return True


class Headers:
    """`RateLimit-Policy` and `RateLimit` on the answer of every request that was counted."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        for name, value in headers(getattr(request, "standings", ())).items():
            response.setdefault(name, value)
        return response


def headers(standings: tuple[Standing, ...]) -> dict[str, str]:
    """Return the headers that tell where a caller stands; only the policies while Redis is away."""
    if not standings:
        return {}
    told = {"RateLimit-Policy": policies_header(tuple(each.policy for each in standings))}
    if known := standings_header(standings):
        told["RateLimit"] = known
    return told


def _wanted(request: Request) -> tuple[Wanted, ...]:
    if not request.user:
        policy = Policy("address", settings.ADDRESS_REQUESTS_MINUTE, MINUTE)
        return (Wanted(policy, addresses.client(request.META), 1),)
    who = caller(request)
    limits = tiers.of(who.account_id)
    wanted = _each_request(limits, who)
    if (sent := int(request.META.get("CONTENT_LENGTH") or 0)) > settings.MAX_BODY_BYTES:
        return *wanted, Wanted(limits.uploads, str(who.account_id), sent)
    return wanted


@lru_cache(maxsize=tiers.REMEMBERED_ACCOUNTS)
def _each_request(limits: Limits, who: Caller) -> tuple[Wanted, ...]:
    """Return what each request is counted by."""
    account = str(who.account_id)
    wanted = Wanted(limits.burst, account, 1), Wanted(limits.sustained, account, 1)
    return (*wanted, Wanted(limits.key, str(who.key_id), 1)) if who.key_id else wanted
