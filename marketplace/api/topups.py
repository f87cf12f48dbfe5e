"""Token packs, and top-ups that buy them by card."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import packs
from marketplace.api import representations
from marketplace.api.serializers import PackList


class Packs(APIView):
    @extend_schema(responses={200: PackList}, summary="List the Token packs on sale")
    def get(self, request: Request) -> Response:
        return Response({"data": [representations.pack(row) for row in packs.offered()]})
