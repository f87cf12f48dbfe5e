#!/usr/bin/env python
"""Django's command line for Kiln."""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import OperationalError

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    try:
        execute_from_command_line(sys.argv)
    except OperationalError:
        if settings.DATABASE_URL:
            raise
        sys.exit(f"no stack runs in {settings.KILN_HOME}: start one with `make run`, or set DATABASE_URL")
