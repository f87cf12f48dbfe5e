"""The WSGI application that the web server loads."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
# The threads of the web server are everybody's: none waits for one customer's locks until the others are turned away.
os.environ.setdefault("KILN_LOCK_SECONDS", "3")
application = get_wsgi_application()
