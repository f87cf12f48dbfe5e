"""A customer who pays by card: the web server live, the double of Stripe as a process, webhooks over HTTP.

For tests alone: imported once Django is set up.
"""

import io
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import stripe
from django.core.management import call_command

from billing.models import Payer, StripeEvent, TopUp
from billing.tokens import wallets
from devstack import processes
from marketplace.addresses import ROOT

KEY, SECRET = "sk_test_kiln", "whsec_ours"
VISA, DECLINED, STOLEN = "4242424242424242", "4000000000000002", "4000000000005423"
WHOLE_MEDIUM = 44_000_000


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Shop:
    """A customer, the web server, and the double that sends its webhooks there."""

    def __init__(self, url, customer):
        self.url = url
        self.customer = customer
        self.client = stripe.StripeClient(KEY, base_addresses={"api": url})
        self.v1 = self.client.v1

    def order(self, pack="medium", **changes):
        headers = {name: changes.pop(name) for name in list(changes) if name == "Idempotency_Key"}
        return self.customer.post("/v1/topups", {"pack": pack, "currency": "eur", **changes}, **headers)

    def buy(self, pack="medium", **changes):
        answer = self.order(pack, **changes)
        assert answer.status_code == 201, answer.content
        return answer.json()

    def pay(self, top_up, number=VISA, **more):
        """The payment page's answer to its form."""
        form = {"email": "bob@example.com", "name": "Bob", "number": number, "expiry": "12/34", **more}
        try:
            with urllib.request.build_opener(Stay).open(top_up["url"], urllib.parse.urlencode(form).encode()) as answer:
                return answer.status
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code

    def paid(self, pack="medium"):
        """A top-up that was paid, and its payment at Stripe."""
        top_up = self.buy(pack)
        assert self.pay(top_up) == 303
        self.wait(top_up, "paid")
        return top_up, TopUp.objects.get(id=top_up["id"]).payment_intent

    def see(self, top_up):
        return self.customer.get(f"/v1/topups/{top_up['id']}").json()

    def wait(self, top_up, status):
        assert processes.wait_until(lambda: self.see(top_up)["status"] == status, 15), self.see(top_up)
        return self.see(top_up)

    def session(self, top_up):
        listed = self.v1.checkout.sessions.list({"limit": 100})
        (found,) = [each for each in listed.data if each.client_reference_id == top_up["id"]]
        return found

    def completion(self, top_up):
        """The id of Stripe's event that says that a top-up's page was completed."""
        listed = self.v1.events.list({"type": "checkout.session.completed", "limit": 100})
        (found,) = [event.id for event in listed.data if event.data.object["client_reference_id"] == top_up["id"]]
        return found

    def deliveries(self, event_id):
        """What has become of each delivery of an event."""
        return [each["state"] for each in self._listed("deliveries") if each["event"] == event_id]

    def control(self, path, **body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/_control/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def fault(self, kind, match, **more):
        self.control("faults", kind=kind, match=match, **{"count": 1, **more})

    def faults(self):
        """Those that are still to strike."""
        return self._listed("faults")

    def _listed(self, path):
        with urllib.request.urlopen(f"{self.url}/_control/{path}", timeout=10) as answer:
            return json.load(answer)

    def heal(self):
        """No fault strikes any more."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_control/faults", method="DELETE")).close()

    @property
    def tokens(self):
        return self.customer.balance[0]


def reconcile():
    """What the command printed, and how many it repaired."""
    said = io.StringIO()
    call_command("reconcile_payments", stdout=said)
    lines = said.getvalue().splitlines()
    return lines, int(lines[-1].split()[-2])


def send(client, event, secret=SECRET, moment=None, signature=None):
    """Posts an event as Stripe does."""
    body = json.dumps(event)
    signed = signature or stripe.WebhookSignature.generate_signature_header(body, secret, moment)
    return client.post("/webhooks/stripe", body, content_type="application/json", headers={"Stripe-Signature": signed})


def completed(top_up, **changes):
    """What Stripe says of a Checkout that was paid."""
    session = {
        "id": TopUp.objects.get(id=top_up["id"]).session_id, "client_reference_id": top_up["id"],
        "payment_status": "paid", "amount_total": 2000, "currency": "eur", "payment_intent": f"pi_{uuid4().hex}",
    }  # fmt: skip
    data = {"object": session | changes}
    return {"id": f"evt_{uuid4().hex}", "object": "event", "type": "checkout.session.completed", "data": data}


def spend(customer, amount):
    wallets.hold(customer.account.id, amount, reference := uuid4(), timedelta(hours=1))
    wallets.capture(reference, amount)


AUTOMATIC = {"pack": "small", "currency": "eur", "threshold": "500", "daily_cap": "15.00"}


def standing(shop):
    """The customer's automatic top-ups as they see them."""
    return shop.customer.get("/v1/topups/automatic").json()


def switch_on(shop, **changes):
    answer = shop.customer.put("/v1/topups/automatic", {**AUTOMATIC, **changes})
    assert answer.status_code == 200, answer.content
    return answer.json()


def save_card(shop, page, number=VISA, **more):
    """Save a card on the page that `switch_on` gave; return Stripe's id of it."""
    assert shop.pay({"url": page["card_url"]}, number, **more) == 303
    assert processes.wait_until(lambda: standing(shop)["status"] == "on", 15), standing(shop)
    return Payer.objects.get(owner=shop.customer.account.id).card_id


def arrives(shop, tokens):
    assert processes.wait_until(lambda: shop.tokens == tokens, 15), (shop.tokens, standing(shop))


def charged(shop):
    """What Stripe has taken for the customer's top-ups, in minor units."""
    known = {str(top_up_id) for top_up_id in TopUp.objects.values_list("id", flat=True)}
    listed = [charge.to_dict(for_json=True) for charge in shop.v1.charges.list({"limit": 100}).auto_paging_iter()]
    mine = [charge for charge in listed if charge["metadata"].get("top_up") in known]
    return [charge["amount"] for charge in mine if charge["status"] == "succeeded"]


def heard(kind, count=1):
    """Wait until so many events of a kind were acted on."""
    assert processes.wait_until(lambda: StripeEvent.objects.filter(type=kind).count() >= count, 15)


@contextmanager
def double(folder):
    """The double's address, while it runs."""
    command = [sys.executable, "-m", "devstack.stripe", "--port", "0", "--data", folder / "stripe.sqlite"]
    command += ["--webhook-url", "http://127.0.0.1:9", "--webhook-secret", SECRET, "--retry-scale", "0.001"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[-1]
    process.terminate()
    assert process.wait(20) == 0
