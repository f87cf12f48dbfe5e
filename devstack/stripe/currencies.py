"""How Stripe counts, shows and limits amounts in each currency (docs.stripe.com/currencies)."""

from devstack.stripe.errors import Invalid

WHOLE = {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
THOUSANDTHS = {"bhd", "jod", "kwd", "omr", "tnd"}
# Counted in hundredths, but without a smaller unit.
HUNDREDS = {"isk", "ugx"}
MINIMUMS = {
    "aed": 200, "bgn": 100, "czk": 1500, "dkk": 250, "gbp": 30, "hkd": 400, "huf": 17500, "mxn": 1000, "myr": 200,
    "nok": 300, "pln": 200, "ron": 200, "sek": 300, "thb": 1000, "krw": 700,
}  # fmt: skip
MAXIMUM = 99_999_999


def show(amount: int, currency: str) -> str:
    """Return minor units as people write them: 700 in jpy is `700 JPY`."""
    places = 0 if currency in WHOLE else 3 if currency in THOUSANDTHS else 2
    whole, rest = divmod(amount, 10**places)
    return f"{whole}{f'.{rest:0{places}d}' if places else ''} {currency.upper()}"


def check(amount: int, currency: str, param: str) -> int:
    """Return an amount to charge. Raises Invalid if Stripe takes no such amount in this currency."""
    least = MINIMUMS.get(currency, 50)
    if amount < least:
        raise Invalid(f"Amount must be at least {show(least, currency)}", code="amount_too_small", param=param)
    if amount > MAXIMUM:
        message = f"Amount must be no more than {show(MAXIMUM, currency)}"
        raise Invalid(message, code="amount_too_large", param=param)
    step = 10 if currency in THOUSANDTHS else 100 if currency in HUNDREDS else 1
    if amount % step:
        message = f"Amounts in {currency} must be evenly divisible by {step}."
        raise Invalid(message, code="parameter_invalid_integer", param=param)
    return amount
