import pytest

from tests.devstack.stripe.doubles import Browser, InProcess, InThread, Receiver


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def double(receiver):
    made = InThread(receiver)
    yield made
    made.end()


@pytest.fixture
def lasting(tmp_path, receiver):
    made = InProcess(tmp_path / "stripe.sqlite", receiver)
    yield made
    made.end()


@pytest.fixture
def browser():
    return Browser()
