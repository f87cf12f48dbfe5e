"""Kiln's settings with the benchmark's URLs."""

from marketplace.settings import *  # noqa: F403

ROOT_URLCONF = "bench.api_urls"
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
