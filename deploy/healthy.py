"""`python deploy/healthy.py web|worker`: exit code 0 where that part of this container works."""

import os
import socket
import sys
import urllib.request

import psycopg

SEEN = "SELECT 1 FROM jobs_worker WHERE name LIKE %s AND warm AND seen_at > now() - interval '15 seconds'"


def web() -> bool:
    """Whether the web server answers. Whether jobs can be taken is /readyz's affair, not this container's."""
    with urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=4) as answer:
        return bool(answer.status == 200)


def worker() -> bool:
    """Whether this host's worker has its model loaded and said so lately."""
    with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=4) as connection:
        return connection.execute(SEEN, [f"{socket.gethostname()}-%"]).fetchone() is not None


if __name__ == "__main__":
    sys.exit(not {"web": web, "worker": worker}[sys.argv[1]]())
