"""What comes in and what goes out: requests are checked here, responses are described here for the schema."""

from __future__ import annotations

import time
from functools import cache, lru_cache
from typing import Any

from django.conf import settings
from django.core.validators import URLValidator
from rest_framework import serializers

from billing.amounts import parse_money
from billing.models import AutomaticTopUp, Hold, Lot, TopUp, Transfer
from inference.card import ModelCard
from inference.models import catalog
from marketplace.api.fields import Choice, Flag, Number, StrictSerializer, Text, Tokens, Whole
from marketplace.jobs import reuse
from marketplace.jobs.models import ServiceClass, Status
from marketplace.jobs.orders import JobOrder
from marketplace.jobs.storage import FORMATS

MAX_N = 4
MAX_SEED = 2**32 - 1
MAX_METADATA = 16
WEB_ADDRESS = URLValidator(["http", "https"])
LABEL = Text(max_length=40)


class OrderSerializer(StrictSerializer):
    """The body of `POST /v1/jobs` and `POST /v1/quotes`; what is left out takes the model's default."""

    operation = Choice(choices=["generate"], default="generate")
    model = Text(required=False, max_length=100, help_text="A name from `GET /v1/models`.")
    prompt = Text(max_length=4000, allow_blank=True, trim_whitespace=False)
    negative_prompt = Text(max_length=4000, allow_blank=True, default="", trim_whitespace=False)
    width = Whole(required=False, min_value=1, help_text="Pixels, a multiple of 16.")
    height = Whole(required=False, min_value=1, help_text="Pixels, a multiple of 16.")
    steps = Whole(required=False, min_value=1, max_value=100)
    guidance_scale = Number(required=False, min_value=0, help_text="1 or less turns guidance off.")
    seed = Whole(
        required=False, allow_null=True, default=None, min_value=0, max_value=MAX_SEED,
        help_text="Drawn at random where absent; the n-th picture takes seed + n - 1.",
    )  # fmt: skip
    n = Whole(default=1, min_value=1, max_value=MAX_N, help_text="Pictures.")
    deterministic = Flag(
        default=False,
        help_text="The same order with the same seed gives the same picture, bit for bit; it shares no batch.",
    )
    adapters = serializers.ListField(child=serializers.DictField(), default=list, max_length=8)
    service_class = Choice(choices=ServiceClass.values, default="standard")
    output_format = Choice(choices=list(FORMATS), default="png")
    cache = Choice(
        choices=list(reuse.MODES), required=False,
        help_text="`on`: begin from latents of your earlier, similar pictures, which is faster, costs less and may "
        "resemble them; `exact`: only give stored pictures again where order and seed are the same; `off`: neither. "
        "Default: `exact` with a seed, else `on`.",
    )  # fmt: skip
    max_cost = Tokens(required=False, allow_null=True, default=None, help_text="Refuse when the quote is above.")
    metadata = serializers.DictField(
        child=Text(max_length=500, allow_blank=True), default=dict, help_text="Your own labels, given back."
    )

    def validate_adapters(self, adapters: list[Any]) -> list[Any]:
        if adapters:
            raise serializers.ValidationError("There is no such adapter.", code="unknown_adapter")
        return adapters

    def validate_metadata(self, metadata: dict[str, str]) -> dict[str, str]:
        if len(metadata) > MAX_METADATA:
            raise serializers.ValidationError(f"At most {MAX_METADATA} labels.")
        for name in metadata:
            LABEL.run_validation(name)
        return metadata

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        card = _served(settings.MODEL, int(time.monotonic()))
        if attributes.setdefault("model", card.name) != card.name:
            raise serializers.ValidationError(
                {"model": [f"This model is not served; {card.name} is."]}, code="unknown_model"
            )
        if attributes["operation"] not in card.operations:
            raise serializers.ValidationError({"operation": ["This model does not do that."]})
        attributes.setdefault("cache", reuse.ON if attributes["seed"] is None else reuse.EXACT)
        attributes.setdefault("steps", card.default_steps)
        if attributes.setdefault("guidance_scale", card.default_guidance_scale) > card.max_guidance_scale:
            raise serializers.ValidationError({"guidance_scale": [f"Must be at most {card.max_guidance_scale:g}."]})
        for side in ("width", "height"):
            check_side(side, attributes.setdefault(side, getattr(card, f"default_{side}")), card)
        return attributes


@lru_cache(maxsize=4)
def _served(model: str, second: int) -> ModelCard:
    """The model's card, looked for on the disk once a second."""
    return catalog.card(model)


@cache
def _orders() -> OrderSerializer:
    return OrderSerializer()


def order(body: Any) -> JobOrder:
    """A request's body as an order; raises ValidationError.

    `run_validation` keeps nothing in the serializer, so one of them serves all threads; a new one would copy
    all its fields.
    """
    values = _orders().run_validation(body)
    values.pop("adapters")
    return JobOrder(**values)


def check_side(name: str, value: int, card: ModelCard) -> None:
    """Raises ValidationError for a width or height (pixels) that the model cannot make."""
    if value % card.side_multiple or not card.min_side <= value <= card.max_side:
        limits = f"a multiple of {card.side_multiple} from {card.min_side} to {card.max_side}"
        raise serializers.ValidationError({name: [f"Must be {limits}."]})


class ListQuery(StrictSerializer):
    limit = serializers.IntegerField(default=20, min_value=1, max_value=100)
    cursor = serializers.CharField(required=False, max_length=64, help_text="`next_cursor` of the page before.")


class JobListQuery(ListQuery):
    status = Choice(choices=Status.values, required=False)


class KeyChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    name = Text(required=False, max_length=100)
    daily_cap = Tokens(required=False, allow_null=True, help_text="Tokens a day (UTC), null for no cap.")
    monthly_cap = Tokens(required=False, allow_null=True, help_text="Tokens a month (UTC), null for no cap.")


class KeyOrder(KeyChange):
    """A new key has no cap unless it is given one."""

    name = Text(max_length=100)


class TopUpOrder(StrictSerializer):
    pack = Text(max_length=40, help_text="A name from `GET /v1/packs`.")
    currency = Text(max_length=3, help_text='One that the pack has a price in, e.g. "eur".')
    success_url = Text(
        required=False,
        max_length=2000,
        validators=[WEB_ADDRESS],
        help_text="Where to go on once it was paid (a page of Kiln's).",
    )
    cancel_url = Text(
        required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where the way back from the page leads."
    )
    save_card = serializers.BooleanField(default=False, help_text="For automatic top-ups, in the place of another one.")


class AutomaticOrder(StrictSerializer):
    pack = Text(max_length=40, help_text="A name from `GET /v1/packs`; its terms of today are what you agree to.")
    currency = Text(max_length=3, help_text='One that the pack has a price in, e.g. "eur".')
    threshold = Tokens(help_text="Buy when fewer are available.")
    daily_cap = Text(max_length=14, help_text='Pay no more than this in 24 hours, e.g. "60.00".')
    new_card = serializers.BooleanField(default=False, help_text="Save another card than the one that is saved.")
    success_url = Text(
        required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where Stripe's pages lead afterwards."
    )
    cancel_url = Text(required=False, max_length=2000, validators=[WEB_ADDRESS], help_text="Where the way back leads.")

    def validate_threshold(self, threshold: int) -> int:
        if threshold <= 0:
            raise serializers.ValidationError("Must be above 0.")
        return threshold

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        try:
            attributes["daily_cap"] = parse_money(attributes["daily_cap"], attributes["currency"])
        except ValueError as error:
            raise serializers.ValidationError({"daily_cap": [str(error)]}) from error
        return attributes


class ErrorDetail(serializers.Serializer[Any]):
    type = serializers.CharField()
    code = serializers.CharField(help_text="Stable; switch on this.")
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    request_id = serializers.CharField()


class ErrorBody(serializers.Serializer[Any]):
    error = ErrorDetail()


class QuoteBody(serializers.Serializer[Any]):
    total = Tokens()
    unit = Tokens(help_text="One picture.")
    n = serializers.IntegerField()
    price_list = serializers.IntegerField()
    factors = serializers.DictField(help_text="Each factor of the formula; their product, rounded up, is `unit`.")


class ImageBody(serializers.Serializer[Any]):
    url = serializers.CharField()
    expires_at = serializers.DateTimeField()
    sha256 = serializers.CharField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    media_type = serializers.CharField()
    seed = serializers.IntegerField()


class ProgressBody(serializers.Serializer[Any]):
    step = serializers.IntegerField()
    steps = serializers.IntegerField()


class CostBody(serializers.Serializer[Any]):
    quoted = Tokens()
    held = Tokens()
    captured = Tokens()
    released = Tokens()


class CacheBody(serializers.Serializer[Any]):
    tier = serializers.CharField(help_text="none, exact or latent")
    similarity = serializers.FloatField(allow_null=True, help_text="Of the prompts; 1 is the same.")
    steps_skipped = serializers.IntegerField(help_text="Of all pictures together.")


class JobErrorBody(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class JobBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=Status.choices)
    operation = serializers.CharField()
    model = serializers.CharField()
    service_class = serializers.ChoiceField(choices=ServiceClass.choices)
    prompt = serializers.CharField()
    negative_prompt = serializers.CharField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    steps = serializers.IntegerField()
    guidance_scale = serializers.FloatField()
    seed = serializers.IntegerField()
    n = serializers.IntegerField()
    deterministic = serializers.BooleanField()
    output_format = serializers.CharField()
    metadata = serializers.DictField(child=serializers.CharField())
    progress = ProgressBody()
    queue_position = serializers.IntegerField(
        allow_null=True, help_text="1 is next in its service class; null once it runs, and in lists."
    )
    images = ImageBody(many=True)
    cost = CostBody()
    quote = QuoteBody()
    receipt = serializers.DictField(allow_null=True, help_text="What was charged, picture by picture.")
    cache = CacheBody()
    timings = serializers.DictField()
    error = JobErrorBody(allow_null=True)


class JobList(serializers.Serializer[Any]):
    data = JobBody(many=True)  # type: ignore[assignment]
    next_cursor = serializers.CharField(allow_null=True)


class LotBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=Lot.Kind.choices)
    amount = Tokens(help_text="As it came in.")
    left = Tokens()
    price = serializers.CharField(allow_null=True, help_text='What was paid for it, e.g. "19.90"; null where granted.')
    currency = serializers.CharField(allow_null=True, help_text='e.g. "eur"')
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)


class ExpiringBody(serializers.Serializer[Any]):
    expires_at = serializers.DateTimeField()
    amount = Tokens()


class DebtBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    owed = Tokens(help_text="Spent, although the payment for them went back.")
    price = serializers.CharField(allow_null=True, help_text="What they had cost; null for a bonus.")
    currency = serializers.CharField(allow_null=True)
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class BudgetBody(serializers.Serializer[Any]):
    spent = Tokens(help_text="Charged in this period, less refunds, and held now.")
    cap = Tokens(allow_null=True)
    left = Tokens(allow_null=True, help_text="Of the cap; the account may have less.")
    resets_at = serializers.DateTimeField()


class SpendingBody(serializers.Serializer[Any]):
    day = BudgetBody()
    month = BudgetBody()


class KeySpendingBody(SpendingBody):
    id = serializers.UUIDField()


class BalanceBody(serializers.Serializer[Any]):
    available = Tokens()
    held = Tokens()
    total = Tokens()
    lots = LotBody(many=True)
    expiring_soon = ExpiringBody(many=True)
    frozen = serializers.BooleanField()
    debts = DebtBody(many=True)
    account = SpendingBody(help_text="What all of the account spends.")
    key = KeySpendingBody(help_text="What the API key of this request spends.")


class TransferQuery(ListQuery):
    kind = serializers.CharField(
        required=False, max_length=200, help_text="Only these kinds, with commas between: `capture,refund`."
    )

    def validate_kind(self, kinds: str) -> list[str]:
        found = kinds.split(",")
        for kind in found:
            if kind not in Transfer.Kind.values:
                raise serializers.ValidationError(f"Must be of {', '.join(Transfer.Kind.values)}.")
        return found


class TransferBody(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=Transfer.Kind.choices)
    amount = Tokens(help_text="Negative where it left the wallet.")
    balance = Tokens(help_text="What the wallet had after it, held Tokens included.")
    job = serializers.UUIDField(allow_null=True, help_text="The job that was charged or refunded.")
    topup = serializers.UUIDField(
        allow_null=True, help_text="The top-up that it came from, or that what expired or went back had come from."
    )
    url = serializers.CharField(allow_null=True, help_text="Where the job or the top-up is.")
    memo = serializers.CharField()
    created_at = serializers.DateTimeField()


class TransferList(serializers.Serializer[Any]):
    data = TransferBody(many=True)  # type: ignore[assignment]
    next_cursor = serializers.CharField(allow_null=True)


class ReceiptQuoteBody(QuoteBody):
    skipped_step = serializers.CharField(help_text="What a skipped step costs, as a share of one that was run.")


class ReceiptImageBody(serializers.Serializer[Any]):
    delivered = serializers.BooleanField()
    steps_run = serializers.IntegerField()
    steps_skipped = serializers.IntegerField(help_text="Taken from a cache.")
    charged = Tokens()


class ReceiptStepsBody(serializers.Serializer[Any]):
    ordered = serializers.IntegerField(help_text="Of all pictures together.")
    run = serializers.IntegerField()
    skipped = serializers.IntegerField()


class ReceiptHoldBody(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=Hold.Status.choices)
    amount = Tokens()
    captured = Tokens()
    released = Tokens()
    refunded = Tokens(help_text="Of what was captured.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)


class ReceiptTransferBody(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=Transfer.Kind.choices)
    amount = Tokens(help_text="Negative where it left the wallet.")
    created_at = serializers.DateTimeField()


class ReceiptLotBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=Lot.Kind.choices)
    amount = Tokens(help_text="What the job took from this lot and did not get back.")
    price = serializers.CharField(allow_null=True, help_text="What that had cost; null where granted.")
    currency = serializers.CharField(allow_null=True)


class ReceiptBody(serializers.Serializer[Any]):
    job = serializers.UUIDField()
    status = serializers.ChoiceField(choices=Status.choices)
    operation = serializers.CharField()
    model = serializers.CharField()
    service_class = serializers.ChoiceField(choices=ServiceClass.choices)
    quote = ReceiptQuoteBody()
    images = ReceiptImageBody(many=True, help_text="Their charges sum to what was captured.")
    steps = ReceiptStepsBody()
    hold = ReceiptHoldBody()
    transfers = ReceiptTransferBody(many=True)
    lots = ReceiptLotBody(many=True)
    cost = serializers.DictField(
        child=serializers.CharField(), help_text='Money by currency, e.g. `{"eur": "0.13"}`; granted Tokens cost none.'
    )


class InvoiceBody(serializers.Serializer[Any]):
    month = serializers.CharField(help_text='e.g. "2026-11"; months end by UTC.')
    number = serializers.CharField()
    final = serializers.BooleanField(help_text="False while the month is not over.")
    url = serializers.CharField(help_text="The PDF.")


class InvoiceList(serializers.Serializer[Any]):
    data = InvoiceBody(many=True)  # type: ignore[assignment]


class PackBody(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.IntegerField()
    tokens = Tokens()
    bonus = Tokens(help_text="Granted beside.")
    prices = serializers.DictField(child=serializers.CharField(), help_text='By currency, e.g. `{"eur": "5.00"}`.')


class PackList(serializers.Serializer[Any]):
    data = PackBody(many=True)  # type: ignore[assignment]


class TopUpBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=TopUp.Status.choices, help_text="Tokens are there once it is paid.")
    url = serializers.CharField(allow_null=True, help_text="Stripe's page, while it can be paid there.")
    pack = PackBody()
    price = serializers.CharField(help_text='e.g. "5.00"')
    currency = serializers.CharField()
    refunded = serializers.CharField(help_text="Of the price.")
    automatic = serializers.BooleanField(help_text="Bought by an automatic top-up; open with a `url`: the bank asks.")
    failure = serializers.CharField(allow_null=True, help_text="Why the card did not pay, in Stripe's words.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    paid_at = serializers.DateTimeField(allow_null=True)


class TopUpList(serializers.Serializer[Any]):
    data = TopUpBody(many=True)  # type: ignore[assignment]
    next_cursor = serializers.CharField(allow_null=True)


class CardBody(serializers.Serializer[Any]):
    brand = serializers.CharField()
    last4 = serializers.CharField()
    exp_month = serializers.IntegerField()
    exp_year = serializers.IntegerField()


class AutomaticBody(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=AutomaticTopUp.Status.choices)
    reason = serializers.ChoiceField(
        choices=AutomaticTopUp.Reason.choices, allow_null=True, help_text="Why it is off; set it up anew to go on."
    )
    pack = PackBody()
    price = serializers.CharField(help_text="Of one top-up.")
    currency = serializers.CharField()
    threshold = Tokens()
    daily_cap = serializers.CharField()
    card = CardBody(allow_null=True)
    card_url = serializers.CharField(allow_null=True, help_text="Stripe's page to save a card, for 24 hours.")
    retry_at = serializers.DateTimeField(allow_null=True, help_text="Not before, because the card was declined.")
    pending = TopUpBody(allow_null=True, help_text="With a `url` where your bank asks for you: pay it there.")
    created_at = serializers.DateTimeField()


class KeyBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    prefix = serializers.CharField()
    daily_cap = Tokens(allow_null=True)
    monthly_cap = Tokens(allow_null=True)
    created_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)


class NewKeyBody(KeyBody):
    key = serializers.CharField(help_text="The whole key, shown only this once.")


class KeyList(serializers.Serializer[Any]):
    data = KeyBody(many=True)  # type: ignore[assignment]


class ModelBody(serializers.Serializer[Any]):
    name = serializers.CharField()
    revision = serializers.CharField()
    description = serializers.CharField()
    operations = serializers.ListField(child=serializers.CharField())
    min_side = serializers.IntegerField()
    max_side = serializers.IntegerField()
    side_multiple = serializers.IntegerField()
    max_steps = serializers.IntegerField()
    default_width = serializers.IntegerField()
    default_height = serializers.IntegerField()
    default_steps = serializers.IntegerField()
    default_guidance_scale = serializers.FloatField()
    max_guidance_scale = serializers.FloatField()
    default_strength = serializers.FloatField()
    max_images = serializers.IntegerField()
    max_image_side = serializers.IntegerField()
    condition_area = serializers.IntegerField(
        allow_null=True, help_text="Pixels at which an edit sees each of its images; null: as many as the output has."
    )


class ModelList(serializers.Serializer[Any]):
    data = ModelBody(many=True)  # type: ignore[assignment]
