"""The bodies of files."""

from __future__ import annotations

from marketplace.api.bodies import Body, StrictSerializer
from marketplace.api.fields import Choice, Identifier, Moment, Text, Upload, Whole

PURPOSES = ["vision", "user_data"]


class FileOrder(StrictSerializer):
    file = Upload(help_text="A PNG, JPEG or WebP picture.")
    purpose = Choice(choices=PURPOSES, default="vision", help_text="For clients that say one; nothing depends on it.")


class FileBody(Body):
    id = Identifier()
    object = Text(of=lambda file: "file")
    filename = Text(of="row.name")
    bytes = Whole(of="row.size")
    media_type = Text()
    sha256 = Text()
    width = Whole(help_text="Of the picture as it stands upright.")
    height = Whole()
    created_at = Moment()
    expires_at = Moment()


class FileList(Body):
    data = FileBody(many=True, of="row")  # type: ignore[assignment]
    next_cursor = Text(given=True, allow_null=True)
