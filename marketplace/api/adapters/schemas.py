"""The bodies of adapters and their versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.core.files.uploadedfile import UploadedFile
from rest_framework import serializers

from inference.adapters import recipes
from inference.adapters.configuration import Configuration
from inference.adapters.recipes import MAX_RECIPE_BYTES
from lora import listings
from lora.models import MAX_SLUG, SLUG, Adapter, Version
from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Array, Choice, Flag, Identifier, Moment, Object, Text, Upload, Whole

MAX_NAME = 100
MAX_CONFIGURATION_BYTES = 256 * 1024
MAX_TRIGGERS = 20
SLUG_RULE = "Must be small letters, digits and single dashes between them."


def _slug() -> Text:
    return Text(
        max_length=MAX_SLUG, pattern=SLUG, help_text="Its name in `adapter/HANDLE/SLUG`, unique among your adapters."
    )


def _triggers(**terms: Any) -> Array:
    return Array(
        child=Text(max_length=MAX_NAME), max_length=MAX_TRIGGERS, help_text="Words that call it in a prompt.", **terms
    )


class VersionForm(StrictSerializer):
    file = Upload(help_text="A LoRA in a safetensors file, as trainers write them.")
    recipe = Text(
        default="", max_length=MAX_RECIPE_BYTES, allow_blank=True, line=False,
        help_text="JSON: `steps`, `guidance_scale` and `sampler` that it was made for. Default: what the file says.",
    )  # fmt: skip

    configuration = Upload(
        required=False,
        help_text="PEFT's `adapter_config.json`, for a file of PEFT's that leaves alpha to it; 256 KiB at most.",
    )

    def validate_configuration(self, file: UploadedFile[Any]) -> str:
        if (file.size or 0) > MAX_CONFIGURATION_BYTES:
            message = f"Must have at most {MAX_CONFIGURATION_BYTES // 1024} KiB."
            raise serializers.ValidationError(message, code="file_too_large")
        try:
            written: str = file.read().decode()
            Configuration(written)
        except (ValueError, RecursionError) as error:
            message = f"This is no configuration of PEFT's that can be used: {error}."
            raise serializers.ValidationError(message, code="invalid_configuration") from error
        return written

    def validate_recipe(self, text: str) -> str:
        try:
            if text:
                recipes.parse(text)
        except (ValueError, RecursionError) as error:
            raise serializers.ValidationError(f"This recipe cannot be used: {error}.", code="invalid_recipe") from error
        return text


class AdapterForm(VersionForm):
    slug = _slug()
    name = Text(max_length=MAX_NAME)
    description = Text(default="", max_length=2000, allow_blank=True, line=False)
    trigger_words = _triggers(default=list)

    def validate_slug(self, slug: str) -> str:
        return checked_slug(slug)


class AdapterChange(StrictSerializer):
    """What is left out of a change stays as it is."""

    name = Text(required=False, max_length=MAX_NAME)
    description = Text(required=False, max_length=2000, allow_blank=True, line=False)
    trigger_words = _triggers(required=False)


class MakerChange(StrictSerializer):
    handle = Text(max_length=MAX_SLUG, pattern=SLUG, help_text="Chosen once; others name your adapters by it.")

    def validate_handle(self, handle: str) -> str:
        return checked_slug(handle)


class MakerBody(Body):
    handle = Text()
    created_at = Moment()


class VersionBody(Body):
    number = Whole()
    status = Choice(choices=Version.Status.choices)
    reason = Text(of="row.reason or None", allow_null=True, help_text="Why it was refused.")
    origin = Choice(choices=Version.Origin.choices)
    sha256 = Text(of="row.sha256 or None", allow_null=True, help_text="Of its canonical file.")
    size = Whole(help_text="Bytes.")
    rank = Whole(of="row.rank or None", allow_null=True)
    layers = Whole(of="row.layers or None", allow_null=True)
    recipe = Object(
        of=lambda row: row.recipe if row.status == Version.Status.READY else {},
        help_text="What an order with it takes where it says nothing.",
    )
    created_at = Moment()


class AdapterBody(Body):
    id = Identifier()
    slug = Text()
    maker = Text(of="row.owner.handle")
    mine = Flag(given=True)
    name = Text()
    description = Text()
    trigger_words = Array(child=Text())
    base_model = Text()
    base_revision = Text()
    visibility = Choice(choices=Adapter.Visibility.choices)
    created_at = Moment()


class OneAdapterBody(AdapterBody):
    versions = VersionBody(many=True, given=True, help_text="Newest first; to others than its maker, those to be used.")
    shared_with = Array(child=Text(), given=True, help_text="Ids of accounts; to its maker alone.")


class AdapterList(Body):
    data = AdapterBody(many=True, given=True)  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)


def checked_slug(slug: str) -> str:
    if not re.fullmatch(SLUG, slug):
        raise serializers.ValidationError(SLUG_RULE)
    return slug


def show(adapter: Adapter, account_id: UUID) -> dict[str, Any]:
    return AdapterBody.show(adapter, mine=adapter.owner_id == account_id)


def show_one(adapter: Adapter, account_id: UUID) -> dict[str, Any]:
    """Return an adapter with those of its versions that the account may see."""
    mine = adapter.owner_id == account_id
    shared = list(adapter.shared.values_list("account", flat=True))
    found = adapter.versions.filter(deleted_at=None).order_by("-number")
    if not mine:
        found = found.filter(status=Version.Status.READY)
    rows = list(found)
    if not mine and account_id not in shared:
        rows = [row for row in rows if listings.terms(row)]
    return OneAdapterBody.show(
        adapter,
        mine=mine,
        versions=[VersionBody.show(row) for row in rows],
        shared_with=sorted(map(str, shared)) if mine else [],
    )


def show_all(rows: Sequence[Adapter], account_id: UUID, following: str | None) -> dict[str, Any]:
    return AdapterList.show(data=[show(row, account_id) for row in rows], next_cursor=following)
