"""A double of Stripe in a process of its own, a receiver of its webhooks, and what a person does on its pages."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stripe

from devstack.stripe import server
from devstack.stripe.webhooks import Endpoint
from marketplace.addresses import ROOT

SECRET = "whsec_first"
KEY = "sk_test_kiln"


class Receiver:
    """Keeps every webhook as (event, signature header, body); answers with `statuses` first, then 200."""

    def __init__(self):
        self.arrived = []
        self.statuses = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.arrived.append((json.loads(body), self.headers["Stripe-Signature"], body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/webhooks/stripe"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def types(self):
        return [event["type"] for event, _, _ in self.arrived]

    def wait(self, *types, seconds=10):
        """Until events of all these types have arrived, as often as named."""
        deadline = time.monotonic() + seconds
        while any(self.types().count(each) < types.count(each) for each in types):
            assert time.monotonic() < deadline, f"only {self.types()}"
            time.sleep(0.02)
        return {event["type"]: event for event, _, _ in self.arrived}


class Double:
    """A running double, as its users reach it."""

    url = ""

    def reach(self, url):
        self.url = url
        self.client = stripe.StripeClient(KEY, base_addresses={"api": url})
        self.v1, self.v2 = self.client.v1, self.client.v2

    def control(self, path, method="POST", **body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}/_control/{path}", json.dumps(body).encode(), headers, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def events(self):
        """Types of all events, in the order of their making."""
        found = self.v1.events.list({"limit": 100})
        return [event.type for event in found.auto_paging_iter()][::-1]


class InThread(Double):
    """The double in this process, remembering nothing."""

    def __init__(self, receiver, *secrets):
        endpoint = Endpoint(receiver.url, secrets or (SECRET,), retry_scale=0.001, threads=1)
        self.server = server.Double(server.Settings(0, endpoint))
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()
        self.reach(self.server.url)

    def end(self):
        self.server.stop()
        self.thread.join()


class InProcess(Double):
    """`python -m devstack.stripe`, started and killed as its user would."""

    def __init__(self, data, receiver):
        self.command = [sys.executable, "-m", "devstack.stripe", "--port", "0", "--data", data]
        self.command += ["--webhook-url", receiver.url, "--webhook-secret", SECRET, "--retry-scale", "0.001"]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.reach(self.process.stdout.readline().split()[-1])

    def end(self):
        self.process.terminate()
        assert self.process.wait(10) == 0
        self.process.stdout.close()

    def crash(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Browser:
    """Opens pages and posts forms, following no redirect: (status, text, location)."""

    class _Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    def open(self, url, **form):
        data = urllib.parse.urlencode(form).encode() if form else None
        try:
            with urllib.request.build_opener(self._Stay).open(url, data, timeout=10) as answer:
                return answer.status, answer.read().decode(), None
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode(), answer.headers["Location"]


def session(double, **more):
    """An open Checkout Session over 12.50 USD."""
    price = {"currency": "usd", "unit_amount": 1250, "product_data": {"name": "1000 Tokens"}}
    return double.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "success_url": "https://kiln.example/done?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://kiln.example/back",
            **more,
        }
    )


def pay(browser, page, number="4242424242424242", **more):
    """Fill in the payment page's form and send it."""
    form = {"email": "alice@example.com", "name": "Alice", "number": number, "expiry": "12/34"}
    return browser.open(page, **form | more)


def paid(double, amount=1250, method="pm_card_visa", **more):
    """A PaymentIntent that has succeeded."""
    order = {"amount": amount, "currency": "usd", "payment_method": method, "confirm": True}
    never = {"enabled": True, "allow_redirects": "never"}
    return double.v1.payment_intents.create({**order, "automatic_payment_methods": never, **more})
