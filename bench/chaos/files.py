"""A client's pictures: files that it keeps at Kiln, and those that come with its orders."""

import base64
import hashlib
import io
import random
from collections.abc import Callable
from typing import Any

from PIL import Image

from bench.chaos.answers import BOUNDARY, Answer, Http

DATA_URL = "data:image/png;base64,"
OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("edit", {}), ("img2img", {"strength": 0.9}), ("redraw", {"box": [0, 0, 32, 32]}),
    ("outpaint", {"extend": [16, 0, 0, 16]}),
]  # fmt: skip


class Files:
    """What one client has sent and not deleted; `expect` is told what must be true, and what it means if it is not."""

    def __init__(self, http: Http, rng: random.Random, expect: Callable[[bool, str], None]) -> None:
        self.http, self.rng, self.expect = http, rng, expect
        self.sent: dict[str, bytes] = {}

    def terms(self) -> dict[str, Any]:
        """Return what makes an order one with a picture: a file, or one that comes with it."""
        operation, terms = self.rng.choice(OPERATIONS)
        source = DATA_URL + base64.b64encode(picture(self.rng)).decode()
        if self.sent and self.rng.random() < 0.6:
            source = self.rng.choice(list(self.sent))
        return {"operation": operation, "images": [source], **terms}

    def send(self) -> str:
        """Send a picture. Without an answer nobody knows whether it is kept."""
        content = picture(self.rng)
        answer = self.http.ask("POST", "/v1/files", form(content))
        right = answer.status == 201 and answer.body["sha256"] == hashlib.sha256(content).hexdigest()
        self.expect(right, f"a file was answered {answer}")
        if right:
            self.sent[answer.body["id"]] = content
        return "kept"

    def look(self) -> str:
        if not self.sent:
            return "none"
        file_id, content = self.rng.choice(list(self.sent.items()))
        answer = self.http.ask("GET", f"/v1/files/{file_id}/content")
        self.expect(answer == Answer(200, content), f"file {file_id} was answered {answer.status}")
        return "as it was sent"

    def delete(self) -> str:
        """Delete a file, also one that a job still needs."""
        if not self.sent:
            return "none"
        file_id = self.rng.choice(list(self.sent))
        del self.sent[file_id]
        answer = self.http.ask("DELETE", f"/v1/files/{file_id}")
        # 404: an earlier try, whose answer was lost, has deleted it
        self.expect(answer.status in {204, 404}, f"deleting file {file_id} was answered {answer}")
        return "deleted"


def picture(rng: random.Random) -> bytes:
    """Return a PNG of 48 by 48 pixels of one colour."""
    content = io.BytesIO()
    Image.new("RGB", (48, 48), tuple(rng.choices(range(256), k=3))).save(content, "PNG")
    return content.getvalue()


def form(content: bytes, file_name: str = "a.png", **fields: str) -> bytes:
    """Return a form with a file of this name, and further fields."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    more = "".join(f'{head}"{field}"\r\n\r\n{value}\r\n' for field, value in fields.items())
    return f'{more}{head}"file"; filename="{file_name}"\r\n\r\n'.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
