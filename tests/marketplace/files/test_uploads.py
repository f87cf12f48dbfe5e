"""Files over HTTP: what is kept, for whom, how much, and until when."""

import io
from datetime import timedelta

import pytest
from django.core.files.storage import storages
from django.db.models.functions import Now
from django.test.client import BOUNDARY, encode_multipart
from PIL import Image

from billing.tokens import wallets
from marketplace import keeping
from marketplace.files.models import File
from tests.marketplace.people import restrict

FORM = f"multipart/form-data; boundary={BOUNDARY}"
pytestmark = pytest.mark.django_db(transaction=True)


def encoded(kind="PNG", size=(48, 32), **options):
    content = io.BytesIO()
    Image.new("RGB", size, (220, 40, 40)).save(content, kind, **options)
    return content.getvalue()


def send(customer, content, name="red.png", **fields):
    file = io.BytesIO(content)
    file.name = name
    form = encode_multipart(BOUNDARY, {"file": file, **fields})
    return customer.post("/v1/files", form, Content_Type=FORM)


def test_a_file_is_kept_listed_downloaded_and_deleted(alice):
    content = encoded("JPEG")
    answer = send(alice, content, "Urlaub 2026.jpg")
    assert answer.status_code == 201
    file = answer.json()
    assert answer["Location"] == f"/v1/files/{file['id']}"
    told = ("object", "filename", "bytes", "media_type", "width", "height")
    assert [file[name] for name in told] == ["file", "Urlaub 2026.jpg", len(content), "image/jpeg", 48, 32]
    assert alice.get(f"/v1/files/{file['id']}").json() == file
    assert alice.get("/v1/files").json() == {"data": [file], "next_cursor": None}
    download = alice.get(f"/v1/files/{file['id']}/content")
    assert (b"".join(download.streaming_content), download["Content-Type"]) == (content, "image/jpeg")
    assert alice.delete(f"/v1/files/{file['id']}").status_code == 204
    for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
        assert alice.get(path).status_code == 404
    assert alice.get("/v1/files").json()["data"] == []
    assert not storages["files"].exists(f"{alice.account.id}/{file['id']}")


def test_the_files_of_another_account_are_not_there(alice, bob):
    path = f"/v1/files/{send(alice, encoded()).json()['id']}"
    for asked in (bob.get(path), bob.get(f"{path}/content"), bob.delete(path)):
        assert (asked.status_code, asked.json()["error"]["code"]) == (404, "not_found")
    assert bob.get("/v1/files").json()["data"] == []
    assert alice.get(path).status_code == 200


def test_a_file_is_what_its_content_says_and_stands_upright(alice):
    """Whatever the client calls it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = send(alice, encoded("WEBP", (48, 32), exif=exif), "red.gif").json()
    assert (file["media_type"], file["width"], file["height"]) == ("image/webp", 32, 48)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The submitted file is empty."),
        (b"hello", "it is not a PNG, JPEG or WebP file"),
        (encoded("GIF"), "it is a GIF, and only PNG, JPEG and WebP files are read"),
        (encoded()[:60], "it is damaged, cut off or of a rare kind, and cannot be"),
        (encoded(size=(4096, 16)), "it must have sides from 16 to 2048 pixels, not 4096 by 16"),
    ],
    ids=["empty", "text", "gif", "cut off", "too large"],
)
def test_what_no_model_may_have_is_refused_in_a_sentence(alice, content, told):
    answer = send(alice, content)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["param"] == "file"
    assert told in error["message"]
    assert not File.objects.exists()


@pytest.mark.parametrize(
    ("body", "kind", "status", "param"),
    [
        (b"{}", "application/json", 415, None),
        (b"", "", 422, "file"),
        (b"rubbish", FORM, 422, "file"),
        (b"rubbish", "multipart/form-data", 400, None),
        (encode_multipart(BOUNDARY, {"file": "text"}), FORM, 422, "file"),
        (encode_multipart(BOUNDARY, {"colour": "red"}), FORM, 422, "colour"),
        (encode_multipart(BOUNDARY, {"purpose": ["vision", "vision"]}), FORM, 422, "purpose"),
    ],
    ids=["json", "nothing", "no form", "no boundary", "no file", "unknown", "twice"],
)
def test_what_is_not_a_form_with_a_file_is_refused(alice, body, kind, status, param):
    answer = alice.post("/v1/files", body, Content_Type=kind)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_file_may_be_as_large_as_is_told_and_other_bodies_may_not(alice, settings):
    settings.FILE_MB = 1
    fits = encoded() + bytes(900_000)
    assert send(alice, fits).status_code == 201
    answer = send(alice, encoded() + bytes(1_200_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert alice.post("/v1/keys", b" " * 70_000).status_code == 413


@pytest.mark.parametrize("quota", [{"files": 2}, {"files_mb": 1}], ids=["files", "bytes"])
def test_an_account_keeps_no_more_than_its_quota(alice, bob, quota):
    restrict(alice, **quota)
    content = encoded() + bytes(400_000)
    first = send(alice, content).json()
    assert send(alice, content).status_code == 201
    answer = send(alice, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "file_quota_reached")
    assert send(bob, content).status_code == 201
    alice.delete(f"/v1/files/{first['id']}")
    assert send(alice, content).status_code == 201


def test_an_account_without_tokens_keeps_fewer(alice, bob):
    restrict(alice, files_unfunded=1)
    restrict(bob, files_unfunded=1)
    assert [send(alice, encoded()).status_code for _ in range(2)] == [201, 201]
    assert [(answer := send(bob, encoded())).status_code for _ in range(2)] == [201, 409]
    assert answer.json()["error"]["message"].startswith("An account without Tokens keeps 1 files")
    wallets.grant(bob.account.id, 1, "a grant")
    assert send(bob, encoded()).status_code == 201


def test_files_expire_and_so_does_what_a_crash_left(alice):
    kept, old = (send(alice, encoded()).json()["id"] for _ in range(2))
    File.objects.filter(id=old).update(expires_at=Now() - timedelta(seconds=1))
    assert alice.get(f"/v1/files/{old}").status_code == 404
    restrict(alice, files=2)
    assert send(alice, encoded()).status_code == 409  # the bytes are still there
    assert keeping.expire() == 1
    assert not storages["files"].exists(f"{alice.account.id}/{old}")
    assert send(alice, encoded()).status_code == 201
    assert alice.get(f"/v1/files/{kept}/content").status_code == 200


def test_a_file_whose_bytes_could_not_be_stored_is_never_seen(alice, tmp_path, settings):
    taken = tmp_path / "files"
    taken.write_text("a file where the folder should be")
    settings.STORAGES = settings.STORAGES | {
        "files": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(taken)}}
    }
    assert send(alice, encoded()).status_code == 500
    assert alice.get("/v1/files").json()["data"] == []
    (unfinished,) = File.objects.all()
    assert not unfinished.stored
    File.objects.update(expires_at=Now())
    taken.unlink()
    assert keeping.expire() == 1
    assert not File.objects.exists()
