"""Kiln's URLs, and one view that does nothing, for comparison."""

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.urls import handler400, handler404, handler500, urlpatterns  # noqa: F401


class NoOp(APIView):
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    def post(self, request: Request) -> Response:
        return Response({"received": len(request.data)})


urlpatterns = [path("noop", NoOp.as_view()), *urlpatterns]
