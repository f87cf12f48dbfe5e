"""What happens at Stripe and not in Kiln: payments on its page, refunds and disputes, and Stripe's own books."""

import http.client
import json
import time
import urllib.parse
from typing import Any
from urllib.parse import urlsplit

PATIENCE_SECONDS = 20.0


class StripeSide:
    """A client of the double of Stripe, with the `faults` that it may cause for Kiln."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = urlsplit(url).netloc

    def pay(self, page: str, card: str) -> str:
        """Fill in the payment page; return whether it was paid, refused, or not answered."""
        method = {"method": "us_bank_account"} if card == "bank" else {"number": card, "expiry": "12/34"}
        fields = urllib.parse.urlencode({"email": "chaos@example.com", "name": "Chaos", **method})
        kind = "application/x-www-form-urlencoded"
        status, _ = self._patiently("POST", urlsplit(page).path, fields, kind)
        return {303: "paid", 402: "refused", None: "no answer"}.get(status, str(status))

    def visit(self, page: str, **form: str) -> bool:
        """Send a hosted page's form; return whether it was accepted."""
        kind = "application/x-www-form-urlencoded"
        return self._once("POST", urlsplit(page).path, urllib.parse.urlencode(form), kind)[0] in {200, 303}

    def once(self, method: str, path: str, **form: Any) -> Any:
        """Ask the API once, as the platform's operator would; return its answer, None if it refused or none came."""
        kind = "application/x-www-form-urlencoded" if form else ""
        status, body = self._once(method, path, urllib.parse.urlencode(form) or None, kind)
        return json.loads(body) if status == 200 else None

    def fund(self, money: dict[str, int]) -> None:
        """Put money of the platform's own into its balance at Stripe."""
        for currency, amount in money.items():
            card = {"payment_method": "pm_card_bypassPending", "confirm": "true", "metadata[own]": "1"}
            never = {
                "automatic_payment_methods[enabled]": "true",
                "automatic_payment_methods[allow_redirects]": "never",
            }
            made = self.once("POST", "/v1/payment_intents", amount=amount, currency=currency, **card, **never)
            if made is None:
                raise RuntimeError("the double does not take the platform's money")

    def intent(self, session: str) -> str | None:
        """Return the payment of a session."""
        status, body = self._patiently("GET", f"/v1/checkout/sessions/{session}", None, "")
        return json.loads(body)["payment_intent"] if status == 200 else None

    def control(self, path: str, method: str = "POST", **given: Any) -> Any:
        """Tell the double once to do something; return what it did, None if it refused or did not answer."""
        status, body = self._once(method, f"/_control/{path}", json.dumps(given), "application/json")
        return json.loads(body) if status == 200 else None

    def detach(self, card: str) -> bool:
        """Remove a saved card; return whether it is removed."""
        form = "application/x-www-form-urlencoded"
        return self._once("POST", f"/v1/payment_methods/{card}/detach", "", form)[0] == 200

    def delivered(self) -> set[str]:
        """Return the events that Kiln has acknowledged."""
        status, body = self._patiently("GET", "/_control/deliveries", None, "")
        if status != 200:
            raise RuntimeError(f"deliveries: the double answers {status} {body!r}")
        return {each["event"] for each in json.loads(body) if each["state"] == "delivered"}

    def every(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind (`charges`, `refunds`, `disputes`, `checkout/sessions`)."""
        found: list[dict[str, Any]] = []
        while True:
            after = f"&starting_after={found[-1]['id']}" if found else ""
            status, body = self._patiently("GET", f"/v1/{kind}?limit=100{after}", None, "")
            if status != 200:
                raise RuntimeError(f"{kind}: the double answers {status} {body!r}")
            page = json.loads(body)
            found += page["data"]
            if not page["has_more"]:
                return found

    def _patiently(self, method: str, path: str, body: str | None, kind: str) -> tuple[int | None, bytes]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, answer = self._once(method, path, body, kind)
            if (status is not None and status < 500 and status != 429) or time.monotonic() > deadline:
                return status, answer
            time.sleep(0.2)

    def _once(self, method: str, path: str, body: str | None, kind: str) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        headers = {"Authorization": "Bearer sk_test_chaos"} | ({"Content-Type": kind} if kind else {})
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()
