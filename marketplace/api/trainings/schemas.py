"""The bodies of trainings and their tiers, and the check of an order."""

from __future__ import annotations

import re
import secrets
import unicodedata
from pathlib import PurePath
from typing import Any
from uuid import UUID

from django.conf import settings
from rest_framework import serializers

from billing.amounts import format_fraction
from inference.card import ModelCard
from inference.errors import InvalidTraining
from inference.models import catalog
from inference.request import MAX_SEED, TILE
from inference.training import examples
from lora import models, tiers
from lora.models import SLUG
from lora.training_prices import LAYERS, LEAST_PICTURES
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Array, Choice, Flag, Identifier, Moment, Number, Object, Text, Tokens, Whole
from marketplace.api.jobs.bodies import CostBody, JobErrorBody, MomentsBody
from marketplace.api.problems import invalid
from marketplace.files import uploads
from marketplace.files.models import File
from marketplace.jobs.models import ServiceClass, Status
from marketplace.trainings import lifecycle
from marketplace.trainings.models import Training
from marketplace.trainings.orders import Picture, TrainingOrder

MOST_PICTURES = 200
MOST_CAPTIONS = 20
MOST_SAMPLES = 8
STEPS_A_PICTURE = 100
LEAST_STEPS = 300
"""How many steps are taken where an order does not say: what trainers of adapters agree on."""


class PictureOrder(StrictSerializer):
    whole = False

    file = Text(max_length=36, help_text="The id of a file.")
    caption = Text(required=False, max_length=2000, line=False, help_text="What it shows, in the adapter's own words.")
    captions = Array(child=Text(max_length=2000, line=False), required=False, min_length=1, max_length=MOST_CAPTIONS,
                     help_text="Several, of which one is shown at a time; for instance in two languages.")  # fmt: skip
    before = Text(
        required=False, max_length=36, help_text="The id of the file before the edit that `caption` asks for."
    )


class TrainingQuoteOrder(StrictSerializer):
    tier = Text(max_length=40, help_text="Of `GET /v1/tiers`.")
    pictures = Array(child=PictureOrder(), min_length=LEAST_PICTURES, max_length=MOST_PICTURES)
    caption = Text(
        required=False, max_length=2000, line=False,
        help_text="Of pictures that have none; `{name}` stands for the name of the file.",
    )  # fmt: skip
    resolution = Whole(
        required=False, min_value=TILE, max_value=4096,
        help_text="Pixels of a side, squared the area that pictures are learnt at, each in its own proportions.",
    )  # fmt: skip
    steps = Whole(required=False, min_value=1, help_text="By default 100 a picture, within the tier.")
    seed = Whole(required=False, min_value=0, max_value=MAX_SEED, allow_null=True)
    samples = Array(
        child=Text(max_length=2000, line=False), default=list, max_length=MOST_SAMPLES,
        help_text="Prompts that are drawn again and again, to see how it goes on; by default some captions.",
    )  # fmt: skip
    keep_pictures = Flag(
        default=False, help_text="Whether the files stay; otherwise they are deleted after the training."
    )
    max_cost = Tokens(required=False, positive=True, allow_null=True)


class TrainingOrderBody(TrainingQuoteOrder):
    """Of a further version of an adapter."""


class NewAdapterOrder(TrainingQuoteOrder):
    slug = Text(max_length=models.MAX_SLUG, pattern=SLUG, help_text="Its name in addresses: small letters, digits, -.")
    name = Text(max_length=100)
    description = Text(default="", max_length=2000, allow_blank=True, line=False)
    trigger_words = Array(child=Text(max_length=100), default=list, max_length=10)

    def validate_slug(self, slug: str) -> str:
        if not re.fullmatch(SLUG, slug):
            raise serializers.ValidationError("Must be small letters and digits, with single hyphens between.")
        return slug


class TierBody(Body):
    name = Text()
    version = Whole()
    description = Text()
    base_cost = Tokens(help_text="Of 1,000 steps at 1024 x 1024.")
    floor = Whole(help_text="Pixels, below which a training costs no less.")
    most_pictures = Whole()
    resolution = Whole(of="row.side", help_text="Pixels of a side, at most.")
    rank = Whole()
    layers = Choice(choices=[(each, each) for each in LAYERS], help_text="Those of the model that are trained.")
    most_steps = Whole()
    versions_kept = Whole(help_text="Adapters of earlier steps that can be compared and kept.")
    service_class = Choice(choices=ServiceClass.choices)
    may_publish = Flag()
    surcharge = Text(
        of=lambda tier: format_fraction(tier.surcharge, 3), help_text="Of the price of each picture with the adapter."
    )


class TierList(Body):
    data = TierBody(many=True, of="row")  # type: ignore[assignment]


class TrainingQuoteBody(Body):
    total = Text()
    steps = Whole()
    tier = Text()
    factors = Object()


class TrainingProgressBody(Body):
    step = Whole()
    steps = Whole()
    loss = Number(allow_null=True)
    seconds_left = Whole(allow_null=True)


class EvaluationBody(Body):
    step = Whole(of='row["step"]')
    loss = Number(of='row["loss"]', help_text="On the pictures that were held out.")
    samples = Text(given=True, allow_null=True, help_text="Where the pictures of the sample prompts are.")
    kept = Flag(of='bool(row["adapter"])', help_text="Whether its adapter can still be made a version.")


class TrainedAdapterBody(Body):
    id = Identifier()
    slug = Text()


class TrainingBody(Body):
    id = Identifier()
    object = Text(of=lambda training: "training")
    adapter = TrainedAdapterBody()
    tier = Text(of="row.tier.name")
    status = Choice(choices=Status.choices)
    queue_position = Whole(given=True, allow_null=True)
    progress = TrainingProgressBody(of="row")
    evaluations = EvaluationBody(many=True, given=True)
    version = Whole(
        of="row.version and row.version.number", allow_null=True, help_text="The best one, once it is made."
    )
    pictures = Whole(of='len(row.order.get("pictures", ()))')
    resolution = Whole(of='row.order.get("side")', allow_null=True)
    seed = Whole(of='row.order.get("seed")', allow_null=True)
    samples = Array(child=Text(), of='row.order.get("samples", [])')
    keep_pictures = Flag()
    quote = Object()
    cost = CostBody(of="row")
    cancel_cost = Tokens(allow_null=True, of="None if row.is_final else row.cancel_cost")
    cancel_requested_at = Moment(allow_null=True)
    timings = MomentsBody(of="row")
    error = JobErrorBody(of="row if row.error_code else None", allow_null=True)


class TrainingList(Body):
    data = TrainingBody(many=True, given=True)  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


class KeptBody(Body):
    version = Whole(of="row.number")


def show(training: Training) -> dict[str, Any]:
    """Show a training, whose adapter, tier and version should have been selected with it."""
    return TrainingBody.show(
        training,
        queue_position=lifecycle.position(training),
        evaluations=[evaluation(training, each) for each in training.evaluations],
    )


def evaluation(training: Training, found: dict[str, Any]) -> dict[str, Any]:
    samples = f"/v1/trainings/{training.id}/samples/{found['step']}" if found["samples"] else None
    return EvaluationBody.show(found, samples=samples)


def order(values: dict[str, Any], account_id: UUID) -> TrainingOrder:
    """Return a checked order, defaults filled in. Raises Problem, and UnknownTier."""
    terms = tiers.find(values["tier"]).terms
    card = catalog.card(settings.MODEL)
    pictures = _pictures(values, account_id, card)
    side = values.get("resolution") or min(terms.side, card.default_width) // TILE * TILE
    if side % TILE or not 4 * TILE <= side <= card.max_side:
        raise invalid("resolution", f"Must be a multiple of {TILE} from {4 * TILE} to {card.max_side}.")
    if len(pictures) > terms.most_pictures:
        raise invalid("pictures", f"This tier takes {terms.most_pictures} pictures at most.", "outside_tier")
    steps = values.get("steps") or min(terms.most_steps, max(LEAST_STEPS, STEPS_A_PICTURE * len(pictures)))
    seed = values.get("seed")
    return TrainingOrder(
        tier=values["tier"],
        pictures=pictures,
        side=side,
        steps=steps,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        samples=tuple(
            _words(each, f"samples.{index}", "A sample", card, edits=bool(pictures[0].before))
            for index, each in enumerate(values["samples"])
        ),
        keep_pictures=values["keep_pictures"],
        max_cost=values.get("max_cost"),
    )


def _pictures(values: dict[str, Any], account_id: UUID, card: ModelCard) -> tuple[Picture, ...]:
    given = values["pictures"]
    if any("before" in each for each in given) and not all("before" in each for each in given):
        raise invalid("pictures", "Either all pictures have one `before` them, or none.")
    known = _files(account_id, given)
    found = []
    for index, each in enumerate(given):
        param = f"pictures.{index}"
        file = _file(known, each["file"], f"{param}.file")
        before = _file(known, each["before"], f"{param}.before") if "before" in each else None
        said = _captions(each, values.get("caption"), file, param)
        captions = tuple(_words(text, param, "A caption", card, edits=before is not None) for text in said)
        hashes = (file.sha256, before.sha256 if before else "")
        found.append(Picture(str(file.id), hashes[0], captions, str(before.id) if before else "", hashes[1]))
    if len({each.sha256 for each in found}) < len(found):
        raise invalid("pictures", "A picture is there twice.", "picture_twice")
    return tuple(found)


def _files(account_id: UUID, given: list[dict[str, Any]]) -> dict[str, File]:
    wanted = {each[kind] for each in given for kind in ("file", "before") if kind in each}
    ids = [found for each in wanted if (found := _uuid(each)) is not None]
    return {str(file.id): file for file in uploads.of_account(account_id).filter(id__in=ids, inline=False)}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _file(known: dict[str, File], text: str, param: str) -> File:
    file = known.get(str(_uuid(text)))
    if file is None:
        raise invalid(param, "There is no such file.", "unknown_file")
    return file


def _captions(given: dict[str, Any], template: str | None, file: File, param: str) -> list[str]:
    own = given.get("captions") or ([given["caption"]] if "caption" in given else [])
    if own or not template:
        if not own:
            raise invalid(param, "It has no caption, and the order has none for all.", "no_caption")
        return own
    return [template.replace("{name}", PurePath(file.name).stem.replace("_", " "))]


def _words(text: str, param: str, of: str, card: ModelCard, *, edits: bool) -> str:
    """Return a text in one line, which the trainer takes. Raises Problem."""
    found = " ".join(unicodedata.normalize("NFC", text).split())
    try:
        examples.check_words(of, found, card, edits=edits)
    except InvalidTraining as error:
        raise invalid(param, f"{error}.") from error
    return found
