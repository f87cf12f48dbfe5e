"""Pictures by signed link: whoever has the link may see the picture until it expires, and nobody else."""

from __future__ import annotations

import time
from uuid import UUID

from django.http import FileResponse, HttpRequest, HttpResponseBase
from django.views.decorators.http import require_safe

from marketplace.api.problems import Problem, not_found, respond
from marketplace.jobs import storage
from marketplace.jobs.models import Image


@require_safe
def image(request: HttpRequest, image_id: UUID, kind: str) -> HttpResponseBase:
    expires = request.GET.get("expires", "")
    if not (expires.isascii() and expires.isdigit() and len(expires) < 13):
        return respond(not_found("picture"), request)
    if not storage.may_open(image_id, int(expires), request.GET.get("signature", "")):
        return respond(not_found("picture"), request)
    left = int(expires) - int(time.time())
    if left <= 0:
        gone = "This link has expired; get the job again for a new one."
        return respond(Problem(403, "permission", "link_expired", gone), request)
    row = Image.objects.filter(id=image_id).first()
    if row is None:
        return respond(not_found("picture"), request)
    try:
        response = FileResponse(storage.open_image(row), content_type=row.media_type)
    except FileNotFoundError:
        return respond(not_found("picture"), request)
    response["Cache-Control"] = f"private, max-age={left}, immutable"
    response["ETag"] = f'"{row.sha256}"'
    response["Content-Disposition"] = f'inline; filename="{row.id}.{kind}"'
    return response
