"""The models that are served."""

from __future__ import annotations

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models import catalog
from marketplace.api.catalogue.schemas import ModelList


class Models(APIView):
    @extend_schema(responses={200: ModelList}, summary="List the models served, with their limits and defaults")
    def get(self, request: Request) -> Response:
        return Response(ModelList.show([catalog.card(settings.MODEL)]))
