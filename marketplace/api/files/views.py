"""Files over HTTP: sent once, used in orders by their id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import FileResponse, QueryDict
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models import catalog
from marketplace import keeping
from marketplace.accounts.authentication import caller
from marketplace.api.files.schemas import FileBody, FileList, FileOrder
from marketplace.api.pages import ListQuery, page
from marketplace.api.problems import Problem, invalid, not_found
from marketplace.files import uploads
from marketplace.files.models import File


class Files(APIView):
    parser_classes = [MultiPartParser]

    def handle_exception(self, error: Exception) -> Response:
        if isinstance(error, UnsupportedMediaType):
            message = "Send a form with the file: `Content-Type: multipart/form-data`."
            error = Problem(415, "invalid_request", "not_multipart", message)
        return super().handle_exception(error)

    @extend_schema(request={"multipart/form-data": FileOrder}, responses={201: FileBody}, summary="Send a picture")
    def post(self, request: Request) -> Response:
        """The picture is checked at once: what a model may not have is refused. It is kept until `expires_at`."""
        order = FileOrder(data=fields_of(request))
        order.is_valid(raise_exception=True)
        sent = order.validated_data["file"]
        card = catalog.card(settings.MODEL)
        file = uploads.receive(caller(request).account_id, sent.name, sent.read(), card)
        return Response(FileBody.show(file), status=201, headers={"Location": f"/v1/files/{file.id}"})

    @extend_schema(parameters=[ListQuery], responses={200: FileList}, summary="List files, newest first")
    def get(self, request: Request) -> Response:
        query = ListQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        mine = uploads.of_account(caller(request).account_id).order_by("-id")
        rows, following = page(mine, query.validated_data)
        return Response(FileList.show(rows, next_cursor=following))


class OneFile(APIView):
    @extend_schema(responses={200: FileBody}, summary="See a file")
    def get(self, request: Request, file_id: UUID) -> Response:
        return Response(FileBody.show(find(request, file_id)))

    @extend_schema(responses={204: None}, summary="Delete a file")
    def delete(self, request: Request, file_id: UUID) -> Response:
        """Jobs that were ordered with it keep it until they end."""
        keeping.delete(find(request, file_id))
        return Response(status=204)


class FileContent(APIView):
    @extend_schema(responses={(200, "image/*"): OpenApiTypes.BINARY}, summary="Download a file")
    def get(self, request: Request, file_id: UUID) -> FileResponse:
        file = find(request, file_id)
        try:
            answer = FileResponse(uploads.open_content(file), content_type=file.media_type, filename=file.name)
        except FileNotFoundError as error:
            raise not_found("file") from error
        answer["ETag"] = f'"{file.sha256}"'
        answer["Cache-Control"] = "private, no-cache"
        return answer


def fields_of(request: Request) -> dict[str, Any]:
    """Return the fields and files of a form, none of an empty body. Raises a 422 if one is there twice."""
    if not isinstance(request.data, QueryDict):
        return {}
    form = request.data
    for name, values in form.lists():
        if len(values) > 1:
            raise invalid(name[:50], "Must be there once.")
    return form.dict()


def find(request: Request, file_id: UUID) -> File:
    file = uploads.of_account(caller(request).account_id).filter(id=file_id).first()
    if file is None:
        raise not_found("file")
    return file
