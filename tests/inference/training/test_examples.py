"""What a folder of pictures and captions may hold, and what is refused, each with a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from inference.errors import InvalidTraining
from inference.models import catalog
from inference.training import examples

CARD = catalog.card()


def put(folder: Path, name: str, text: str | None = None, size: tuple[int, int] = (64, 48)) -> None:
    Image.new("RGB", size, "teal").save(folder / name)
    if text is not None:
        (folder / name).with_suffix(".txt").write_text(text)


def test_captions_are_the_lines_beside_a_picture(tmp_path):
    put(tmp_path, "b.png", "a mug\n\n  一个杯子  \n")
    put(tmp_path, "a.jpg", "\ufeffcafe\u0301")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    first, second = examples.read(tmp_path, CARD)
    assert (first.name, first.captions, first.before) == ("a", ("caf\u00e9",), None)
    assert (second.name, second.captions) == ("b", ("a mug", "一个杯子"))
    assert second.image.size == (64, 48)


def test_a_template_names_pictures_without_captions(tmp_path):
    put(tmp_path, "red_mug.png")
    put(tmp_path, "other.webp", "its own")
    first, second = examples.read(tmp_path, CARD, "a photo of {name} {x}")
    assert first.captions == ("its own",)
    assert second.captions == ("a photo of red mug {x}",)


def test_a_picture_before_makes_an_edit(tmp_path):
    put(tmp_path, "a.png", "make it red")
    put(tmp_path, "a.before.jpg", size=(96, 64))
    (example,) = examples.read(tmp_path, CARD)
    assert example.captions == ("make it red",)
    assert example.before is not None
    assert example.before.size == (96, 64)


def _many_captions(folder: Path) -> None:
    put(folder, "a.png", "\n".join(["a mug"] * 21))


def _unreadable_text(folder: Path) -> None:
    put(folder, "a.png")
    (folder / "a.txt").write_bytes(b"caf\xe9")


def _huge_text(folder: Path) -> None:
    put(folder, "a.png", "x" * 400_000)


def _before_without_after(folder: Path) -> None:
    put(folder, "b.png", "make it red")
    put(folder, "a.before.png")


def _mixed(folder: Path) -> None:
    put(folder, "a.png", "make it red")
    put(folder, "a.before.png")
    put(folder, "b.png", "a mug")


def _twice(folder: Path) -> None:
    put(folder, "a.png", "a mug")
    put(folder, "a.jpg")


def _damaged(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 99)


def _placeholder(folder: Path) -> None:
    put(folder, "a.png", "make <|image_pad|> red")
    put(folder, "a.before.png")


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [
        (lambda folder: None, "from 1 to 1000 pictures, not 0"),
        (lambda folder: put(folder, "a.png"), "a has no captions"),
        (lambda folder: put(folder, "a.png", " \n"), "a.txt is empty"),
        (lambda folder: put(folder, "a.png", "x" * 4001), "a caption of a has more than 4000 characters"),
        (_many_captions, "from 1 to 20 captions"),
        (_unreadable_text, "a.txt is not UTF-8"),
        (_huge_text, "a.txt has more than"),
        (lambda folder: (folder / "a.txt").write_text("a mug"), "there is no picture for the captions in a.txt"),
        (_before_without_after, "there is no picture a that a.before leads to"),
        (_mixed, "b has no picture before it"),
        (_twice, "more than one picture named a"),
        (_placeholder, "must not contain"),
        (lambda folder: put(folder, "a.gif", "a mug"), "it is a GIF"),
        (
            lambda folder: (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 99),
            "cannot be read as a picture",
        ),
        (lambda folder: (folder / "notes.md").write_text("hello"), "cannot be read as a picture"),
        (lambda folder: (folder / "a.png").mkdir(), "cannot be read as a picture"),
        (lambda folder: put(folder, "a.png", "a mug", size=(8, 64)), "sides from 16"),
        (lambda folder: put(folder, "a.png", "a mug", size=(3000, 64)), "sides from 16 to 2048"),
    ],
)
def test_what_is_not_an_example_is_refused(tmp_path, fill, sentence):
    fill(tmp_path)
    template = "a {name}" if sentence.endswith("picture") or "sides" in sentence else None
    with pytest.raises(InvalidTraining, match=sentence):
        examples.read(tmp_path, CARD, template)


def test_a_model_without_edits_learns_none(tmp_path):
    put(tmp_path, "a.png", "make it red")
    put(tmp_path, "a.before.png")
    with pytest.raises(InvalidTraining, match="has no edits"):
        examples.read(tmp_path, replace(CARD, operations=("generate",)))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidTraining, match="No such file"):
        examples.read(tmp_path / "none", CARD)
