"""Tokens of an identity provider: a real one on this machine, with real keys. Whose they are and which are refused."""

import base64
import contextlib
import hmac
import io
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client

from marketplace import environment
from marketplace.accounts import signing_keys
from marketplace.accounts.models import Account, Identity, Person
from marketplace.audit.models import Record
from tests.marketplace.api.asking import ORDER, deliver, error
from tests.marketplace.people import Customer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ISSUER, AUDIENCE = "https://id.example.com/", "kiln"


class Provider:
    """An identity provider: an HTTP server that tells its public keys."""

    def __init__(self):
        self.keys, self.asked, self.answer = {}, 0, None
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked += 1
                content = provider.answer or json.dumps({"keys": provider.told()}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.add("first", rsa.generate_private_key(65537, 2048), "RS256")

    def add(self, name, key, algorithm):
        self.keys[name] = key, algorithm

    def told(self):
        kinds = {"R": jwt.algorithms.RSAAlgorithm, "P": jwt.algorithms.RSAAlgorithm, "E": jwt.algorithms.ECAlgorithm}
        found = []
        for name, (key, algorithm) in self.keys.items():
            kind = jwt.algorithms.OKPAlgorithm if algorithm == "EdDSA" else kinds[algorithm[0]]
            found.append(kind.to_jwk(key.public_key(), as_dict=True) | {"kid": name, "use": "sig"})
        return found

    def token(self, name="first", headers=None, **changes):
        key, algorithm = self.keys[name]
        return jwt.encode(self.claims(**changes), key, algorithm, headers={"kid": name, **(headers or {})})

    def claims(self, **changes):
        now = datetime.now(UTC)
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + timedelta(minutes=5)}
        return {name: value for name, value in (said | changes).items() if value is not None}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def provider(settings):
    found = Provider()
    settings.JWT_ISSUER, settings.JWT_AUDIENCE, settings.JWT_KEYS_URL = ISSUER, AUDIENCE, found.url
    signing_keys.from_settings.cache_clear()
    yield found
    found.stop()
    signing_keys.from_settings.cache_clear()


@pytest.fixture
def linked(provider, alice):
    call_command("link_identity", "Alice@example.com", "user-1", stdout=io.StringIO())
    return provider


def ask(token, path="/v1/balance"):
    return Client().get(path, headers={"Authorization": f"Bearer {token}"})


def speaker(customer, token):
    """The customer, speaking by token instead of key."""
    return Customer(customer.account, token, None)


# --- whose a token is ---


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("PS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    ],
)
def test_a_token_speaks_for_the_account_it_is_linked_to(linked, alice, algorithm, make):
    linked.add("other", make(), algorithm)
    answer = ask(linked.token("other"), "/v1/account")
    assert (answer.status_code, answer.json()["id"]) == (200, str(alice.account.id))
    assert "key" not in answer["RateLimit-Policy"]


def test_it_buys_and_has_all_rights_of_its_account(linked, alice, picture):
    by_token = speaker(alice, linked.token())
    job = by_token.post("/v1/jobs", ORDER)
    assert job.status_code == 202
    deliver(job.json()["id"], picture)
    assert alice.get(f"/v1/jobs/{job.json()['id']}").json()["status"] == "succeeded"
    assert by_token.get("/v1/balance").json()["key"] is None
    assert by_token.post("/v1/keys", {"name": "made by token"}).status_code == 201
    Account.objects.filter(id=alice.account.id).update(daily_cap=1)
    assert error(by_token.post("/v1/jobs", ORDER), 402)["code"] == "account_daily_cap_reached"


def test_an_api_key_goes_on_working_beside_it(linked, alice):
    assert alice.get("/v1/balance").status_code == 200
    assert error(ask("kiln_nonsense"), 401)["code"] == "invalid_api_key"
    assert linked.asked == 0


def test_a_switched_off_account_is_told_so(linked, alice):
    Account.objects.filter(id=alice.account.id).update(is_active=False)
    assert error(ask(linked.token()), 403)["code"] == "account_switched_off"
    answer = Client().post("/v1/jobs", ORDER, "application/json", headers={"Authorization": f"Bearer {linked.token()}"})
    assert answer.status_code == 403


def test_links_are_made_moved_and_undone_by_the_operator_and_in_the_audit(linked, alice, bob):
    call_command("link_identity", "bob@example.com", "user-1", stdout=io.StringIO())
    assert ask(linked.token(), "/v1/account").json()["id"] == str(bob.account.id)
    call_command("link_identity", "bob@example.com", "user-1", "--remove", stdout=io.StringIO())
    assert error(ask(linked.token()), 401)["code"] == "identity_not_linked"
    acts = list(Record.objects.filter(act__startswith="identity").order_by("seq").values_list("act", flat=True))
    assert acts == ["identity.linked", "identity.linked", "identity.unlinked"]
    with pytest.raises(CommandError):
        call_command("link_identity", "nobody@example.com", "user-1")


def test_another_claim_may_name_the_account(linked, settings, bob):
    settings.JWT_CLAIM = "customer"
    call_command("link_identity", "bob@example.com", "c-7", stdout=io.StringIO())
    assert ask(linked.token(customer="c-7"), "/v1/account").json()["id"] == str(bob.account.id)
    assert error(ask(linked.token()), 401)["code"] == "missing_claim"


def test_an_account_is_created_at_first_sight_only_where_the_operator_says_so(provider, settings, alice):
    new = {"sub": "user-9", "email": "New@example.com", "email_verified": True}
    assert error(ask(provider.token(**new)), 401)["code"] == "identity_not_linked"
    settings.JWT_CREATE = True
    answer = ask(provider.token(**new), "/v1/account")
    assert (answer.status_code, answer.json()["email"]) == (200, "new@example.com")
    assert ask(provider.token(**new), "/v1/account").json()["id"] == answer.json()["id"]
    for claims in (
        {"sub": "user-10", "email": "alice@example.com", "email_verified": True},  # hers, until the operator links it
        {"sub": "user-11", "email": "x@example.com", "email_verified": False},
        {"sub": "user-12", "email": "no address", "email_verified": True},
        {"sub": "user-13"},
    ):
        assert error(ask(provider.token(**claims)), 401)["code"] == "identity_not_linked"
    assert Person.objects.count() == 2
    assert Identity.objects.count() == 1


# --- which are refused ---


def now(**later):
    return datetime.now(UTC) + timedelta(**later)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("token_expired", {"exp": -5}),
        ("token_not_yet_valid", {"nbf": 20}),
        ("wrong_audience", {"aud": "another"}),
        ("wrong_issuer", {"iss": "https://evil.example.com/"}),
        ("missing_claim", {"exp": None}),
        ("missing_claim", {"aud": None}),
        ("missing_claim", {"iss": None}),
        ("missing_claim", {"sub": None}),
        ("identity_not_linked", {"sub": "user-2"}),
    ],
)
def test_what_is_wrong_with_a_token_is_told(linked, code, changes):
    # numbers are minutes from now
    claims = {name: now(minutes=value) if isinstance(value, int) else value for name, value in changes.items()}
    answer = ask(linked.token(**claims))
    assert error(answer, 401)["code"] == code
    assert answer["WWW-Authenticate"] == 'Bearer realm="kiln", error="invalid_token"'


@pytest.mark.parametrize("text", ["a.b.c", "nonsense", "..", "é.é.é", "x" * 9000])
def test_what_is_no_token_is_malformed(linked, text):
    answer = Client().get("/v1/balance", headers={"Authorization": f"Bearer {text}".encode().decode("latin-1")})
    assert error(answer, 401)["code"] == "malformed_token"
    assert linked.asked == 0


def test_no_header_is_a_missing_key(linked):
    assert error(Client().get("/v1/balance"), 401)["code"] == "missing_api_key"


def test_clocks_may_differ_by_the_leeway(linked):
    assert ask(linked.token(exp=now(seconds=-10))).status_code == 200
    assert ask(linked.token(nbf=now(seconds=10))).status_code == 200


def test_a_token_that_is_not_signed_or_by_the_public_key_as_a_secret_is_refused(linked):
    unsigned = jwt.encode(linked.claims(), None, "none", headers={"kid": "first"})
    assert error(ask(unsigned), 401)["code"] == "algorithm_not_allowed"
    public = linked.keys["first"][0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _, claims, _ = linked.token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"first"}').decode().rstrip("=")
    signed = base64.urlsafe_b64encode(hmac.digest(public, f"{head}.{claims}".encode(), "sha256")).decode().rstrip("=")
    forged = f"{head}.{claims}.{signed}"
    assert error(ask(forged), 401)["code"] == "algorithm_not_allowed"


def test_a_key_is_not_used_for_signatures_of_another_kind(linked):
    linked.add("curve", ec.generate_private_key(ec.SECP256R1()), "ES256")
    token = linked.token("curve", headers={"kid": "first"})
    assert error(ask(token), 401)["code"] == "bad_signature"


def test_a_signature_of_somebody_else_is_refused(linked):
    stranger = Provider()
    stranger.stop()
    assert error(ask(stranger.token()), 401)["code"] == "bad_signature"


def test_a_secret_among_the_providers_keys_is_no_key(linked):
    linked.answer = json.dumps({"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]}).encode()
    assert error(ask(linked.token()), 401)["code"] == "unknown_signing_key"


@pytest.mark.parametrize("name", ["HS256", "none", "RS257"])
def test_only_algorithms_with_public_keys_can_be_set(monkeypatch, name):
    monkeypatch.setenv("KILN_JWT_ALGORITHMS", f"RS256,{name}")
    with pytest.raises(ImproperlyConfigured):
        environment.signatures("KILN_JWT_ALGORITHMS", "RS256")


def test_bad_tokens_are_counted_by_address(linked, settings):
    settings.FAILURES_MINUTE = 2
    codes = [ask(linked.token(sub="user-2")).status_code for _ in range(3)]
    assert codes == [401, 401, 429]
    assert ask(linked.token()).status_code == 200


# --- the provider's keys ---


def test_keys_are_fetched_once_and_again_for_one_that_is_new(linked, monkeypatch):
    for _ in range(3):
        assert ask(linked.token()).status_code == 200
    assert linked.asked == 1
    linked.add("second", rsa.generate_private_key(65537, 2048), "RS256")
    assert error(ask(linked.token("second")), 401)["code"] == "unknown_signing_key"  # asked a moment ago
    assert linked.asked == 1
    monkeypatch.setattr(signing_keys.from_settings(), "_ask_at", 0.0)
    assert ask(linked.token("second")).status_code == 200
    assert linked.asked == 2


def test_unknown_key_ids_do_not_make_kiln_ask_each_time(linked):
    for number in range(5):
        assert error(ask(linked.token(headers={"kid": f"made up {number}"})), 401)["code"] == "unknown_signing_key"
    assert linked.asked == 1


def test_while_the_provider_is_away_known_keys_go_on_and_others_are_a_503(linked, monkeypatch):
    assert ask(linked.token()).status_code == 200
    linked.stop()
    keys = signing_keys.from_settings()
    monkeypatch.setattr(keys, "_fresh_until", 0.0)
    monkeypatch.setattr(keys, "_ask_at", 0.0)
    assert ask(linked.token()).status_code == 200
    linked.add("second", rsa.generate_private_key(65537, 2048), "RS256")
    answer = ask(linked.token("second"))
    assert error(answer, 503)["code"] == "identity_provider_unavailable"
    assert int(answer["Retry-After"]) > 0


@pytest.mark.parametrize(
    "content", [b"no JSON", b"[]", b'{"keys": 7}', b'{"keys": [7, {}, {"kty": "RSA"}]}', b" " * 300_000]
)
def test_nonsense_and_too_much_of_the_provider_is_no_key(linked, content):
    linked.answer = content
    assert ask(linked.token()).status_code in {401, 503}


@contextlib.contextmanager
def sender(content, then=lambda connection: None):
    """Yield the address of a server that sends this to whoever connects, HTTP or not."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(content)
                        then(connection)

        threading.Thread(target=send, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n",
        OK + b"A: %b\r\n\r\n" % (b"x" * 70_000),
        OK + b"A: b\r\n" * 200 + b"\r\n",
        OK + b"\r\n" + b"[" * 200_000,
        b"HTTP/1.1 301 Moved\r\nLocation: http://a:b/\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\n\r\n{}",
    ],
)
def test_a_provider_that_answers_in_no_way_that_is_known_is_away(linked, settings, content):
    with sender(content) as settings.JWT_KEYS_URL:
        assert error(ask(linked.token()), 503)["code"] == "identity_provider_unavailable"


def test_whoever_has_a_known_key_does_not_wait_while_another_asks_a_slow_provider(linked, monkeypatch):
    assert ask(linked.token()).status_code == 200
    keys, asked, answered = signing_keys.from_settings(), threading.Event(), threading.Event()
    monkeypatch.setattr(keys, "_fresh_until", 0.0)
    monkeypatch.setattr(keys, "_ask_at", 0.0)

    def wait(connection):
        asked.set()
        answered.wait(10)

    with sender(b"", wait) as slow:
        monkeypatch.setattr(keys, "_url", slow)
        monkeypatch.setattr(signing_keys, "WAIT_SECONDS", 10.0)
        first = threading.Thread(target=keys.find, args=("first",))
        first.start()
        assert asked.wait(10)
        try:
            assert ask(linked.token()).status_code == 200
            assert first.is_alive()
        finally:
            answered.set()
            first.join()


@pytest.mark.parametrize("subject", ["a\0b", "\ud800"])
def test_a_subject_that_no_database_keeps_is_nobody(linked, subject):
    assert error(ask(linked.token(sub=subject)), 401)["code"] == "missing_claim"


def test_times_without_end_are_refused(linked):
    key, algorithm = linked.keys["first"]
    token = jwt.encode(linked.claims(exp=None) | {"exp": float("inf")}, key, algorithm, headers={"kid": "first"})
    assert ask(token).status_code == 401


def test_a_provider_that_drips_is_not_waited_for(linked, monkeypatch):
    monkeypatch.setattr(signing_keys, "WAIT_SECONDS", 0.3)

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = signing_keys.SigningKeys(f"http://127.0.0.1:{server.server_port}/")
    with pytest.raises(signing_keys.ProviderAway):
        keys.find("first")
    server.shutdown()
    server.server_close()
