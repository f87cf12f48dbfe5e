"""What an adapter is to learn: pictures with captions, or pairs of pictures with instructions.

In a folder, the captions of NAME.png are the lines of NAME.txt; a picture NAME.before.png makes it an edit, which leads
from that one to NAME.png. Files come from strangers: they are read by `picture_files`, and refused with a sentence.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from inference import picture_files, pictures
from inference.card import ModelCard
from inference.errors import InvalidPicture, InvalidTraining
from inference.request import Operation

MOST = 1000
MOST_CAPTIONS = 20
BEFORE = ".before"


class Example(NamedTuple):
    """A picture with captions of it, one of which is shown at a time; an edit has the picture `before` it too."""

    name: str
    image: Image.Image
    captions: tuple[str, ...]
    before: Image.Image | None = None


def read(folder: Path, card: ModelCard, template: str | None = None) -> list[Example]:
    """Read the examples in a folder, in the order of their names.

    `template` is the caption of pictures that have none; {name} in it stands for the picture's name. Raises
    InvalidTraining if a file is not what it should be.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InvalidTraining(f"{folder} cannot be read: {error.strerror}") from error
    images = {path.stem: path for path in paths if path.suffix != ".txt"}
    texts = {path.stem: path for path in paths if path.suffix == ".txt"}
    _check_names(paths, images, texts)
    found = []
    for name in (name for name in images if not name.endswith(BEFORE)):
        captions = _captions(texts[name], card) if name in texts else _templated(name, template)
        before = _image(images[name + BEFORE], card) if name + BEFORE in images else None
        found.append(Example(name, _image(images[name], card), captions, before))
    check(found, card)
    return found


def check(examples: Sequence[Example], card: ModelCard) -> None:
    """Check examples against a model. Raises InvalidTraining for the first that does not fit."""
    if not 1 <= len(examples) <= MOST:
        raise InvalidTraining(f"there must be from 1 to {MOST} pictures, not {len(examples)}")
    edits = [example.before is not None for example in examples]
    if any(edits) and not all(edits):
        raise InvalidTraining(f"{examples[edits.index(False)].name} has no picture before it, as others have")
    if any(edits) and Operation.EDIT not in card.operations:
        raise InvalidTraining(f"{card.name} has no edits, so it learns none")
    for example in examples:
        if not 1 <= len(example.captions) <= MOST_CAPTIONS:
            raise InvalidTraining(f"{example.name} must have from 1 to {MOST_CAPTIONS} captions")
        for caption in example.captions:
            check_words(f"a caption of {example.name}", caption, card, edits=example.before is not None)


def check_words(of: str, words: str, card: ModelCard, *, edits: bool) -> None:
    """Check a caption, or the prompt of a sample. Raises InvalidTraining, which says what it is `of`."""
    if not words.strip():
        raise InvalidTraining(f"{of} is empty")
    if len(words) > card.max_prompt_length:
        raise InvalidTraining(f"{of} has more than {card.max_prompt_length} characters")
    if edits and (found := [each for each in pictures.PLACEHOLDERS if each in words]):
        raise InvalidTraining(f"{of} must not contain {found[0]}, since it is an instruction")


def _check_names(paths: Sequence[Path], images: dict[str, Path], texts: dict[str, Path]) -> None:
    if len(paths) > 3 * MOST:
        raise InvalidTraining(f"there are more than {3 * MOST} files")
    for path in paths:
        if path not in (images.get(path.stem), texts.get(path.stem)):
            raise InvalidTraining(f"there is more than one picture named {path.stem}")
    for name in texts.keys() - images.keys():
        raise InvalidTraining(f"there is no picture for the captions in {name}.txt")
    for name in images:
        if name.endswith(BEFORE) and name.removesuffix(BEFORE) not in images:
            raise InvalidTraining(f"there is no picture {name.removesuffix(BEFORE)} that {name} leads to")


def _captions(path: Path, card: ModelCard) -> tuple[str, ...]:
    most = 4 * MOST_CAPTIONS * (card.max_prompt_length + 1)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        text = unicodedata.normalize("NFC", content.decode("utf-8-sig"))
    except OSError as error:
        raise InvalidTraining(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidTraining(f"{path.name} is not UTF-8") from error
    if len(content) > most:
        raise InvalidTraining(f"{path.name} has more than {most} bytes")
    if not (lines := tuple(line.strip() for line in text.splitlines() if line.strip())):
        raise InvalidTraining(f"{path.name} is empty")
    return lines


def _templated(name: str, template: str | None) -> tuple[str, ...]:
    if not template:
        raise InvalidTraining(f"{name} has no captions, neither {name}.txt nor a template")
    return (unicodedata.normalize("NFC", template.replace("{name}", name.replace("_", " "))),)


def _image(path: Path, card: ModelCard) -> Image.Image:
    try:
        return picture_files.open_image(path, card)
    except InvalidPicture as error:
        raise InvalidTraining(str(error)) from error
