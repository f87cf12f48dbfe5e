"""Files and pictures in an S3 bucket, as moto's server keeps one."""

import io

import boto3
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from marketplace import environment
from marketplace.jobs import storage, submission
from marketplace.jobs.models import Job
from tests.marketplace.files.test_uploads import encoded, send

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server():
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch, settings, tmp_path):
    for name, value in {
        "KILN_S3_ENDPOINT": server,
        "AWS_ACCESS_KEY_ID": "kiln",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "KILN_FILES": "s3://kiln-test/files",
        "KILN_IMAGES": "s3://kiln-test/images",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", endpoint_url=server).Bucket("kiln-test")
    bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    settings.STORAGES = settings.STORAGES | {
        "files": environment.storage("KILN_FILES", tmp_path),
        "images": environment.storage("KILN_IMAGES", tmp_path),
    }
    yield bucket
    bucket.objects.delete()
    bucket.delete()


def test_a_file_goes_to_the_bucket_and_comes_back(alice, bucket):
    content = encoded("PNG", (1024, 1024), compress_level=0)  # larger than what is held in memory
    file = send(alice, content).json()
    (stored,) = bucket.objects.all()
    assert (stored.key, stored.size) == (f"files/{alice.account.id}/{file['id']}", len(content))
    download = alice.get(f"/v1/files/{file['id']}/content")
    assert b"".join(download.streaming_content) == content
    alice.delete(f"/v1/files/{file['id']}")
    assert not list(bucket.objects.all())


def test_a_file_that_is_gone_from_the_bucket_is_not_found(alice, bucket):
    file = send(alice, encoded()).json()
    bucket.objects.delete()
    assert alice.get(f"/v1/files/{file['id']}/content").status_code == 404


def test_pictures_are_delivered_from_the_bucket_by_their_signed_links(alice, order, bucket):
    job = submission.submit(alice.account.id, order(seed=1)).job
    Job.objects.filter(id=job.id).update(attempt=1)
    job.refresh_from_db()
    image = storage.put(job, 0, Image.new("RGB", (64, 64), "red"))
    lost = storage.put(job, 1, Image.new("RGB", (64, 64), "blue"))
    image.save()
    storage.keep_only(job, {image.path})
    assert [each.key for each in bucket.objects.all()] == [f"images/{image.path}"]
    assert lost.path != image.path
    path, _ = storage.signed_path(image)
    answer = alice.get(path)
    assert Image.open(io.BytesIO(b"".join(answer.streaming_content))).size == (64, 64)
    storage.discard_attempt(job)
    assert not list(bucket.objects.all())
    assert alice.get(path).status_code == 404
