"""Adapters that customers send: checked apart, kept in one form, refused with a reason, theirs alone, and bounded."""

import hashlib
import io
import json
import uuid

import pytest
import torch
from django.core.files.storage import storages
from django.db import connection
from django.db.models.functions import Now
from django.test.client import encode_multipart
from safetensors.torch import load, load_file, save

from inference.models import catalog
from lora.models import Adapter, Shared, Version
from marketplace import closing
from marketplace.accounts.models import Account
from marketplace.adapters import metrics, uploads
from marketplace.jobs import inputs
from marketplace.jobs.models import Job
from marketplace.webhooks import endpoints
from marketplace.webhooks.models import Delivery
from tests.marketplace.adapters import goods
from tests.marketplace.api.asking import deliver, error
from tests.marketplace.people import customer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lora(tmp_path):
    """The bytes of an adapter; of another one by another seed."""
    return lambda seed=0: goods.weights(tmp_path / f"sent-{seed}.safetensors", seed).read_bytes()


def send(who, content, path="/v1/adapters", file="style.safetensors", **fields):
    terms = {"slug": "glaze", "name": "Glaze"} if path == "/v1/adapters" else {}
    upload = io.BytesIO(content)
    upload.name = file
    body = {**terms, **fields, "file": upload}
    return who.post(path, encode_multipart("edge", body), Content_Type="multipart/form-data; boundary=edge")


def sent(who, content, *args, **fields):
    answer = send(who, content, *args, **fields)
    assert answer.status_code == 202, answer.content
    return answer.json()


def check():
    return uploads.check_all(catalog.card())


def seen(who, adapter_id):
    answer = who.get(f"/v1/adapters/{adapter_id}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def stored():
    found = []
    for folder in ("incoming", "versions"):
        try:
            for each in storages["adapters"].listdir(folder)[0]:
                found += storages["adapters"].listdir(f"{folder}/{each}")[1]
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def empty_storage(settings, tmp_path):
    place = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path / "kept")}}
    settings.STORAGES = settings.STORAGES | {"adapters": place}


def content(answer):
    return b"".join(answer.streaming_content)


def test_what_was_sent_becomes_ready_and_is_ordered(alice, lora, picture):
    made = sent(alice, lora(), **{"trigger_words[]": ["glz", "kiln style"], "description": "Two\nlines"})
    assert (made["trigger_words"], made["mine"], made["visibility"]) == (["glz", "kiln style"], True, "private")
    [version] = made["versions"]
    assert (version["number"], version["status"], version["recipe"]) == (1, "checking", {})
    order = {"prompt": "x", "width": 256, "height": 256, "adapters": [{"id": made["id"]}]}
    assert error(alice.post("/v1/quotes", order), 422)["code"] == "unknown_version"
    assert check() == 1
    [version] = seen(alice, made["id"])["versions"]
    assert (version["status"], version["rank"], version["reason"]) == ("ready", 8, None)
    job = alice.post("/v1/jobs", order)
    assert job.status_code == 202, job.content
    deliver(job.json()["id"], picture)
    assert check() == 0


@pytest.mark.deep
def test_checks_are_counted(alice, lora, monkeypatch, client):
    checks = {each: metrics.CHECKS.labels(each) for each in metrics.RESULTS}
    before = {name: each._value.get() for name, each in checks.items()}
    for slug, file in (("good", lora()), ("bad", b"no file"), ("late", b"no file either")):
        sent(alice, file, slug=slug)
    assert "kiln_adapter_checks_waiting 3.0" in client.get("/metrics").content.decode()
    assert check() == 3
    sent(alice, lora(), slug="slow")
    monkeypatch.setattr(uploads, "CHECK_SECONDS", 0.001)
    assert check() == 1
    gained = {name: each._value.get() - before[name] for name, each in checks.items()}
    assert gained == {"ready": 1, "refused": 2, "failed": 1}
    assert "kiln_adapter_checks_waiting 0.0" in client.get("/metrics").content.decode()


def of_peft(good):
    """The same adapter as PEFT names it, without its configuration."""
    return renamed(good, "transformer.transformer_blocks", "base_model.model.transformer_blocks")


def configuration(content=None, **fields):
    """PEFT's configuration as a part of the form."""
    written = json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["to_v"], **fields}).encode()
    upload = io.BytesIO(written if content is None else content)
    upload.name = "adapter_config.json"
    return {"configuration": upload}


def test_pefts_file_is_read_with_the_configuration_that_came_with_it(alice, lora):
    plain = sent(alice, lora(), slug="plain")
    same = sent(alice, of_peft(lora()), slug="same", **configuration(lora_alpha=8))
    double = sent(alice, of_peft(lora()), slug="double", **configuration(lora_alpha=16))
    bare = sent(alice, of_peft(lora()), slug="bare")
    further = sent(alice, of_peft(lora()), f"/v1/adapters/{bare['id']}/versions", **configuration(lora_alpha=8))
    assert check() == 5
    first, second, third = (seen(alice, each["id"])["versions"][0] for each in (plain, same, double))
    assert first["sha256"] == second["sha256"] != third["sha256"]
    path = f"/v1/adapters/{double['id']}/versions/1/file"
    assert {float(each) for name, each in load(content(alice.get(path))).items() if name.endswith("alpha")} == {16.0}
    versions = {each["number"]: each for each in seen(alice, bare["id"])["versions"]}
    assert "adapter_config.json" in versions[1]["reason"]
    assert (versions[further["number"]]["status"], versions[2]["sha256"]) == ("ready", first["sha256"])


def test_a_configuration_that_contradicts_its_file_is_refused_and_forgotten(alice, lora):
    made = sent(alice, of_peft(lora()), **configuration(r=4, lora_alpha=8))
    assert check() == 1
    [version] = seen(alice, made["id"])["versions"]
    assert (version["status"], "has rank 8, and '4' in the configuration" in version["reason"]) == ("refused", True)
    assert Version.objects.get().recipe == {}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (configuration(b"{"), "not JSON"),
        (configuration(b"[]"), "not a JSON object"),
        (configuration(b"\xff"), "utf-8"),
        (configuration(b"[" * 100_000), ""),
        (configuration(b'{"r": 8, "r": 9}'), "'r' is there twice"),
        (configuration(use_dora=True), "'use_dora' in the configuration is not supported"),
        (configuration(b" " * (256 * 1024 + 1)), "at most 256 KiB"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_at_once(alice, lora, part, said):
    part["configuration"].seek(0)
    found = error(send(alice, of_peft(lora()), **part), 422)
    assert found["param"] == "configuration"
    assert found["code"] in ("invalid_configuration", "file_too_large")
    assert said in found["message"]
    assert not Adapter.objects.exists()
    assert stored() == []


def test_the_file_comes_back_in_canonical_form_to_its_owner(alice, bob, lora):
    made = sent(alice, lora())
    check()
    path = f"/v1/adapters/{made['id']}/versions/1/file"
    answer = alice.get(path)
    found = content(answer)
    [version] = seen(alice, made["id"])["versions"]
    assert hashlib.sha256(found).hexdigest() == version["sha256"]
    assert answer["Content-Disposition"] == 'attachment; filename="glaze-1.safetensors"'
    alice.put(f"/v1/adapters/{made['id']}/shared/{bob.account.id}", {})
    assert seen(bob, made["id"])["mine"] is False
    assert bob.get(path).status_code == 404
    again = sent(alice, found, slug="again")
    check()
    assert seen(alice, again["id"])["versions"][0]["sha256"] == version["sha256"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda good: b"\x80\x04not a file", "not a safetensors file"),
        (lambda good: good[:-8], "not as long as its header says"),
        (lambda good: changed(good, "lora_A", lambda each: each * float("nan")), "not finite"),
        (lambda good: changed(good, "lora_A", lambda each: each * 1e9), "absurd"),
        (lambda good: changed(good, "lora_A", lambda each: each * 0), "changes nothing"),
        (lambda good: changed(good, "lora_A", lambda each: each[:, :-1].contiguous()), "needs factors"),
        (lambda good: renamed(good, "transformer_blocks.0", "transformer_blocks.99"), "no linear layer"),
    ],
)
@pytest.mark.deep
def test_what_cannot_be_used_is_refused_with_what_is_wrong(alice, lora, spoil, reason):
    endpoints.create(alice.account.id, "https://example.com/hook", ["adapter.ready", "adapter.refused"])
    made = sent(alice, spoil(lora()))
    assert check() == 1
    [version] = seen(alice, made["id"])["versions"]
    assert version["status"] == "refused"
    assert reason in version["reason"]
    assert "/" not in version["reason"]
    assert version["sha256"] is None
    told = Delivery.objects.get()
    assert (told.type, told.data["reason"], told.data["version"]) == ("adapter.refused", version["reason"], 1)
    uploads.remove_unused(set())
    assert stored() == []


def changed(content, name, change):
    tensors = safe(content)
    return save({key: change(each) if name in key else each for key, each in tensors.items()})


def renamed(content, name, other):
    return save({key.replace(name, other): each for key, each in safe(content).items()})


def safe(content):
    return load(content)


def test_one_adapter_in_two_forms_has_one_hash(alice, lora):
    tensors = safe(lora())
    kohya = {}
    for key, each in tensors.items():
        layer = key.removeprefix("transformer.").rpartition(".lora_")[0].replace(".", "_")
        part = "lora_down" if "lora_A" in key else "lora_up"
        kohya[f"lora_unet_{layer}.{part}.weight"] = each
        kohya[f"lora_unet_{layer}.alpha"] = torch.tensor(8.0)
    ids = [
        sent(alice, file, slug=f"s{n}")["id"] for n, file in enumerate((lora(), save(kohya, {"comment": "<script>"})))
    ]
    check()
    versions = [seen(alice, each)["versions"][0] for each in ids]
    assert versions[0]["sha256"] == versions[1]["sha256"] is not None


def test_nothing_of_a_files_metadata_is_kept_but_its_recipe(alice, lora, tmp_path):
    recipe = json.dumps({"steps": 4, "guidance_scale": 1.0})
    made = sent(alice, save(safe(lora()), {"author": "<b>x</b>", "kiln_recipe": recipe}))
    check()
    assert seen(alice, made["id"])["versions"][0]["recipe"] == {"steps": 4, "guidance_scale": 1.0}
    kept = content(alice.get(f"/v1/adapters/{made['id']}/versions/1/file"))
    assert b"<b>" not in kept
    assert b"kiln_recipe" in kept
    (tmp_path / "kept.safetensors").write_bytes(kept)
    assert len(load_file(tmp_path / "kept.safetensors")) == 3 * len(safe(lora())) // 2


def test_a_recipe_is_given_with_the_file_or_known_by_its_name(alice, lora):
    given = sent(alice, lora(), recipe='{"steps": 8}')
    known = sent(alice, lora(), slug="fast", file="Qwen-Image-Lightning-4steps-V1.0.safetensors")
    check()
    assert seen(alice, given["id"])["versions"][0]["recipe"] == {"steps": 8}
    assert seen(alice, known["id"])["versions"][0]["recipe"]["steps"] == 4
    refused = error(send(alice, lora(), slug="odd", recipe='{"stpes": 8}'), 422)
    assert (refused["param"], refused["code"]) == ("recipe", "invalid_recipe")
    assert Adapter.objects.count() == 2


def test_a_form_that_cannot_be_is_refused_and_leaves_nothing(alice, lora, settings):
    good = lora()
    wrong = {
        "slug": {"slug": "Not A Slug"}, "name": {"name": ""}, "colour": {"colour": "red"},
        "trigger_words.0": {"trigger_words[]": [" "]},
    }  # fmt: skip
    for param, fields in wrong.items():
        assert error(send(alice, good, **fields), 422)["param"] == param
    assert error(alice.post("/v1/adapters", {"slug": "x"}), 422)["code"] == "required"
    padded = b'{"slug": "x"}' + b" " * 1_100_000
    assert error(alice.post("/v1/adapters", padded), 413)["code"] == "body_too_large"
    assert error(send(alice, b""), 422)["param"] == "file"
    settings.ADAPTER_MB = 0
    assert error(send(alice, good), 413)["code"] == "body_too_large"
    assert (Adapter.objects.count(), Version.objects.count(), stored()) == (0, 0, [])


def test_a_second_adapter_of_the_same_slug_is_refused(alice, bob, lora):
    sent(alice, lora())
    assert error(send(alice, lora()), 409)["code"] == "slug_taken"
    sent(bob, lora())
    assert Version.objects.count() == 2


def test_an_account_keeps_so_many_and_one_without_tokens_fewer(alice, bob, lora, settings):
    settings.ADAPTERS_KEPT, settings.ADAPTERS_KEPT_UNFUNDED = 2, 1
    for who, most in ((alice, 2), (bob, 1)):
        for number in range(most):
            sent(who, lora(), slug=f"s{number}")
        rows = Adapter.objects.count(), Version.objects.count()
        assert error(send(who, lora(), slug="more"), 409)["code"] == "adapter_quota_reached"
        assert (Adapter.objects.count(), Version.objects.count()) == rows
        assert who.get("/v1/adapters").json()["data"][0]["slug"] == f"s{most - 1}"


def test_each_accounts_first_file_is_checked_before_anybodys_second(alice, bob, lora):
    for slug in ("one", "two", "three"):
        sent(alice, lora(), slug=slug)
    waiting = uploads._in_turn()
    assert next(waiting).adapter.slug == "one"
    sent(bob, lora(), slug="four")  # while the first is checked
    sent(bob, lora(), slug="five")
    Adapter.objects.get(slug="two").versions.update(deleted_at=Now())
    assert [version.adapter.slug for version in waiting] == ["four", "three", "five"]


def test_a_check_that_was_cut_short_is_done_again(alice, lora):
    made = sent(alice, lora())
    check()
    [ready] = stored()
    right = content(alice.get(f"/v1/adapters/{made['id']}/versions/1/file"))
    again = sent(alice, lora(), slug="again")
    half = storages["adapters"].save(f"versions/{again['id']}/{ready}", io.BytesIO(b"half"))
    assert half.endswith(ready)
    check()
    assert content(alice.get(f"/v1/adapters/{again['id']}/versions/1/file")) == right
    assert stored() == [ready, ready]


def test_further_versions_are_taken_by_orders_once_they_are_ready(alice, bob, lora):
    made = sent(alice, lora())
    check()
    path = f"/v1/adapters/{made['id']}/versions"
    assert error(alice.post(path, {}), 415)["code"] == "not_multipart"
    assert sent(alice, lora(1), path)["number"] == 2
    order = {"prompt": "x", "width": 256, "height": 256, "adapters": [{"id": made["id"]}]}
    assert alice.post("/v1/quotes", order).json()["adapters"][0]["version"] == 1
    check()
    assert alice.post("/v1/quotes", order).json()["adapters"][0]["version"] == 2
    assert alice.delete(f"{path}/2").status_code == 204
    assert alice.post("/v1/quotes", order).json()["adapters"][0]["version"] == 1
    assert [each["number"] for each in seen(alice, made["id"])["versions"]] == [1]
    assert send(bob, lora(), path).status_code == 404


def test_a_file_stays_until_no_job_needs_it_and_its_deletion_has_settled(alice, lora):
    made = sent(alice, lora())
    check()
    order = {"prompt": "x", "width": 256, "height": 256, "adapters": [{"id": made["id"]}]}
    job = alice.post("/v1/jobs", order).json()
    assert alice.delete(f"/v1/adapters/{made['id']}").status_code == 204
    assert alice.get(f"/v1/adapters/{made['id']}").status_code == 404
    assert uploads.remove_unused(inputs.adapters_in_use()) == 0
    settle()
    assert uploads.remove_unused(inputs.adapters_in_use()) == 0
    assert len(stored()) == 1
    alice.post(f"/v1/jobs/{job['id']}/cancel")
    assert uploads.remove_unused(inputs.adapters_in_use()) == 1
    assert stored() == []
    assert uploads.remove_unused(inputs.adapters_in_use()) == 0


def settle():
    """Let the deletion of versions have been long ago, which the database lets nobody else do."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE lora_version SET deleted_at = now() - interval '1 day' WHERE deleted_at IS NOT NULL")
        cursor.execute("SET session_replication_role = origin")


def test_what_was_not_received_whole_waits_and_is_refused_in_the_end(alice, lora):
    made = sent(alice, lora())
    storages["adapters"].delete(f"incoming/{made['id']}/1")
    assert check() == 0
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE lora_version SET created_at = now() - interval '2 hours'")
        cursor.execute("SET session_replication_role = origin")
    assert check() == 1
    assert seen(alice, made["id"])["versions"][0]["reason"] == "it was not received whole"


def test_sharing_lets_one_account_see_and_use_and_tells_nobody_who_exists(alice, bob, lora):
    made = sent(alice, lora())
    check()
    nobody = uuid.uuid4()
    for account in (bob.account.id, nobody, bob.account.id):
        assert alice.put(f"/v1/adapters/{made['id']}/shared/{account}", {}).status_code == 204
    assert seen(alice, made["id"])["shared_with"] == sorted([str(bob.account.id), str(nobody)])
    [listed] = bob.get("/v1/adapters").json()["data"]
    assert (listed["id"], listed["mine"], listed["visibility"]) == (made["id"], False, "shared")
    theirs = bob.get(f"/v1/adapters/{made['id']}").content.decode()
    assert str(alice.account.id) not in theirs
    assert str(bob.account.id) not in theirs
    for answer in (
        bob.patch(f"/v1/adapters/{made['id']}", {"name": "Mine"}),
        bob.delete(f"/v1/adapters/{made['id']}"),
        bob.delete(f"/v1/adapters/{made['id']}/versions/1"),
        bob.put(f"/v1/adapters/{made['id']}/shared/{bob.account.id}", {}),
    ):
        assert answer.status_code == 404
    assert seen(alice, made["id"])["name"] == "Glaze"
    assert alice.delete(f"/v1/adapters/{made['id']}/shared/{bob.account.id}").status_code == 204
    assert bob.get(f"/v1/adapters/{made['id']}").status_code == 404


def test_words_are_changed_and_a_handle_is_chosen_once(alice, bob, lora):
    made = sent(alice, lora())
    changed = alice.patch(f"/v1/adapters/{made['id']}", {"name": "Slip", "trigger_words": ["slp"]}).json()
    assert (changed["name"], changed["trigger_words"], changed["slug"]) == ("Slip", ["slp"], "glaze")
    assert alice.patch("/v1/maker", {"handle": "alice"}).json()["handle"] == "alice"
    assert error(alice.patch("/v1/maker", {"handle": "alicia"}), 409)["code"] == "handle_kept"
    assert error(bob.patch("/v1/maker", {"handle": "alice"}), 409)["code"] == "handle_taken"
    for handle in ("admin", "kiln-support", "the-official-bob"):  # as if the operator spoke
        assert error(bob.patch("/v1/maker", {"handle": handle}), 409)["code"] == "handle_taken"
    assert error(bob.patch("/v1/maker", {"handle": "-"}), 422)["param"] == "handle"
    check()
    order = {"prompt": "x", "width": 256, "height": 256, "model": "adapter/alice/glaze"}
    job = alice.post("/v1/jobs", order).json()
    assert (job["model"], job["adapters"]) == ("kiln-house", [{"id": made["id"], "version": 1, "scale": 1.0}])
    assert Job.objects.count() == 1


def test_a_closed_accounts_adapters_are_erased(bob, lora):
    carol = customer("carol", 0)
    made = sent(carol, lora(), description="words")
    check()
    Shared.objects.create(adapter_id=sent(bob, lora())["id"], account=carol.account.id)
    closing.close(carol.account.id)
    closing.erase(Account.objects.get(id=carol.account.id))
    gone = Adapter.objects.get(id=made["id"])
    assert (gone.name, gone.description, gone.slug) == ("", "", "deleted")
    assert not Shared.objects.exists()
    settle()
    uploads.remove_unused(set())
    assert not Version.objects.filter(adapter=gone, stored=True).exists()
    assert len(stored()) == 1
