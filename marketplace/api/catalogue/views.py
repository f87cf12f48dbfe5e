"""What is sold, for anybody: models, prices and Token packs. None needs a key, and all may be kept for a minute."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.prices import packs, price_lists
from inference.models import catalog
from marketplace.api.catalogue.schemas import ModelBody, ModelList, PackList, PricesBody, show_model
from marketplace.api.problems import not_found


class Public(APIView):
    """Pages of other sites may read these answers, too, and only these."""

    authentication_classes = []
    permission_classes = []

    def finalize_response(self, request: Request, response: Any, *args: Any, **more: Any) -> Any:
        answer = super().finalize_response(request, response, *args, **more)
        answer["Access-Control-Allow-Origin"] = "*"
        if answer.status_code == 200:
            answer["Cache-Control"] = "public, max-age=60"
        return answer


class Models(Public):
    @extend_schema(responses={200: ModelList}, summary="List the models on sale, with their limits and defaults")
    def get(self, request: Request) -> Response:
        """Needs no API key. What is not listed cannot be ordered, and nothing above these limits."""
        return Response(ModelList.show(data=[_served()]))


class OneModel(Public):
    @extend_schema(responses={200: ModelBody}, summary="See a model on sale")
    def get(self, request: Request, name: str) -> Response:
        """Needs no API key."""
        if (model := _served())["name"] != name:
            raise not_found("model")
        return Response(model)


class Packs(Public):
    @extend_schema(responses={200: PackList}, summary="List the Token packs on sale")
    def get(self, request: Request) -> Response:
        """Needs no API key."""
        return Response(PackList.show(packs.offered()))


class Prices(Public):
    @extend_schema(responses={200: PricesBody}, summary="See the price list in force")
    def get(self, request: Request) -> Response:
        """Needs no API key. A job keeps the list that it was quoted with."""
        return Response(PricesBody.show(price_lists.current()))


def _served() -> dict[str, Any]:
    return show_model(catalog.card(settings.MODEL), price_lists.current())
