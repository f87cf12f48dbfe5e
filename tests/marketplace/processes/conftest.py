"""A whole site, behind one front, for the tests of a module.

Imports wait inside the fixtures: this file is read before Django is set up.
"""

import pytest


@pytest.fixture(scope="module")
def places(tmp_path_factory, django_db_setup, django_db_blocker):
    """A site that stays up for all tests of a module; the tables are emptied between them."""
    from django.conf import settings
    from redis import Redis

    from tests.marketplace.sites import Site

    with django_db_blocker.unblock():
        Redis.from_url(settings.REDIS_URL).flushall()
        site = Site(tmp_path_factory.mktemp("site"))
        try:
            for name in ("web", "streams", "front", "dispatcher", "worker"):
                site.start(name)
            yield site
        finally:
            site.stop()


@pytest.fixture
def site(places, transactional_db):
    places.warm()
    return places
