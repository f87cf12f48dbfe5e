"""Messages to operators after what they did, which are read and kept in the console's pages alone."""

from django.contrib.messages.middleware import MessageMiddleware
from django.http import HttpRequest


class Messages(MessageMiddleware):
    """Other requests, as all of the API, do not make a place for them each time."""

    def process_request(self, request: HttpRequest) -> None:
        if request.path_info.startswith("/admin/"):
            super().process_request(request)
