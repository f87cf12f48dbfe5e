import pytest
from doubles import Browser, Double, Receiver


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def data(tmp_path):
    return tmp_path / "stripe.sqlite"


@pytest.fixture
def double(data, receiver):
    made = Double(data, receiver)
    yield made
    if made.process.poll() is None:
        made.end()


@pytest.fixture
def browser():
    return Browser()
