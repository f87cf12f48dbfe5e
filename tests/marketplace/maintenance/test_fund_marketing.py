"""The operator funds the marketing account by a command."""

import io

import pytest
from django.core.management import CommandError, call_command

from billing.models import Funding, Marketing
from billing.tokens import proof

pytestmark = pytest.mark.django_db


def fund(*words: str) -> str:
    said = io.StringIO()
    call_command("fund_marketing", *words, stdout=said)
    return said.getvalue().strip()


def test_money_is_put_in_once_for_each_key_and_taken_out():
    for _ in range(2):
        assert fund("eur", "0.05", "100.00", "autumn") == "100.00 EUR are left; 1,000 Tokens are worth 0.05 EUR"
    assert fund("eur", "0.04", "30", "back", "--out") == "70.00 EUR are left; 1,000 Tokens are worth 0.04 EUR"
    assert (Marketing.objects.get().funded_minor, Funding.objects.count()) == (7_000, 2)
    assert proof.check() == []


@pytest.mark.parametrize(
    "words",
    [
        ("eur", "0", "100", "k"),
        ("eur", "0.05", "1.001", "k"),
        ("EURO", "0.05", "1", "k"),
        ("eur", "0.05", "101", "k", "--out"),
        ("eur", "0.05", "99", "first"),
    ],
)
def test_what_cannot_be_is_refused_and_moves_nothing(words):
    fund("eur", "0.05", "100", "first")
    with pytest.raises(CommandError):
        fund(*words)
    assert list(Marketing.objects.values_list("currency", "funded_minor", "price_minor")) == [("eur", 10_000, 5)]
    assert Funding.objects.count() == 1
