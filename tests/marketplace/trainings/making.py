"""Orders of trainings, and the files and adapter that they need. Imported once Django is set up."""

import io
from dataclasses import replace
from uuid import uuid4

from django.conf import settings
from PIL import Image

from inference.models import catalog
from lora import adapters, makers
from marketplace.files import uploads
from marketplace.identifiers import uuid7
from marketplace.trainings import orders, submission
from marketplace.trainings.orders import Picture, TrainingOrder

COLOURS = [(220, 40, 40), (40, 160, 60), (40, 80, 220), (245, 215, 50), (245, 140, 30), (140, 60, 180)]
NAMES = ["red", "green", "blue", "yellow", "orange", "purple"]


def file(customer, colour, side=128):
    content = io.BytesIO()
    picture = Image.new("RGB", (side, side), "white")
    picture.paste(colour, (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    picture.save(content, "PNG")
    return uploads.receive(customer.account.id, "square.png", content.getvalue(), catalog.card(settings.MODEL))


def pictures(customer):
    found = []
    for name, colour in zip(NAMES, COLOURS, strict=True):
        kept = file(customer, colour)
        found.append(Picture(str(kept.id), kept.sha256, (f"a {name} square on a white background",)))
    return tuple(found)


def order(customer, **changes):
    wanted = TrainingOrder(tier="craft", pictures=pictures(customer), side=128, steps=100, seed=1)
    return replace(wanted, **changes)


def adapter(customer, slug="glaze"):
    makers.ensure(customer.account.id)
    card = catalog.card(settings.MODEL)
    return adapters.create(
        uuid7(), customer.account.id, slug=slug, name="Glaze", base_model=card.name, base_revision=card.revision
    )


def submit(customer, wanted=None, slug=None, **options):
    wanted = wanted or order(customer)
    slug = slug or f"glaze-{uuid4().hex[:8]}"
    said = orders.digest(wanted.as_json() | {"slug": slug})
    return submission.submit(customer.account.id, wanted, said, lambda: adapter(customer, slug), **options)
