"""What happens as time passes: sessions expire, pending funds become available, old answers are forgotten."""

import json
import threading
from dataclasses import dataclass, field

from devstack.stripe import sessions
from devstack.stripe.api import KEY_SECONDS, Api
from devstack.stripe.books import Books

TICK_SECONDS = 1.0


def tick(books: Books) -> None:
    """Do what is due."""
    due = books.connection.execute(
        "SELECT body FROM objects WHERE kind = 'checkout.session' AND json_extract(body, '$.status') = 'open'"
        " AND json_extract(body, '$.expires_at') <= ?",
        (books.now,),
    ).fetchall()
    for row in due:
        sessions.expire(books, json.loads(row["body"]))
    books.connection.execute(
        "UPDATE objects SET body = json_set(body, '$.status', 'available') WHERE kind = 'balance_transaction'"
        " AND json_extract(body, '$.status') = 'pending' AND json_extract(body, '$.available_on') <= ?",
        (books.now,),
    )
    books.connection.execute("DELETE FROM answers WHERE created <= ?", (books.now - KEY_SECONDS,))


@dataclass
class Clockwork:
    """A thread that ticks once a second until `stop`."""

    api: Api
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="clockwork")
        self._thread.start()

    def stop(self) -> None:
        """Wait for the tick in progress, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            with self.api.books() as books:
                tick(books)
