"""The ASGI application: answers that wait for jobs. The web server beside it loads `marketplace.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
os.environ.setdefault("KILN_LOCK_SECONDS", "3")  # as in `marketplace.wsgi`
django = get_wsgi_application()

from marketplace.streams.application import Application  # noqa: E402 - it needs Django's set-up

application = Application(django)
