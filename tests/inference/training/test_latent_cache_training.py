"""What calibration learns from pairs of pictures, its command, and the mapping that ships with the weights."""

import random

import pytest

from inference.latent_cache import mapping
from inference.latent_cache.mapping import NEVER
from inference.latent_cache.wording import signature
from inference.models import catalog
from inference.training import latent_cache as calibrate
from inference.training.latent_cache import Outcome, threshold


def outcomes(*lost: int) -> list[Outcome]:
    """Make outcomes, most similar first, a hundredth apart."""
    return [Outcome(0.99 - index / 100, one, 0.01) for index, one in enumerate(lost)]


def test_a_level_is_entered_down_to_where_pictures_begin_to_be_lost():
    assert threshold(outcomes(*[0] * 30), 0.05) == pytest.approx(0.70)
    assert threshold(outcomes(*[0] * 30, 1, 1, 1, 1, 1, 1), 0.05) == pytest.approx(0.70)
    assert threshold(outcomes(*[1] * 10, *[0] * 30), 0.05) == NEVER
    assert threshold(outcomes(*[0] * 19), 0.05) == NEVER, "too few to say"
    assert threshold(outcomes(*[0] * 20), 0.05) == pytest.approx(0.80)


def test_later_levels_never_ask_for_less():
    found = {0.5: outcomes(*[0] * 40), 0.8: outcomes(*[0] * 25, *[1] * 15)}
    learnt = calibrate.calibrate(found, "a revision", 0.05)
    assert [point.sigma for point in learnt.points] == [0.8, 0.5]
    assert learnt.points[0].similarity == learnt.points[1].similarity == pytest.approx(0.75)
    assert learnt.entry(0.9) == 0.5
    assert learnt.entry(0.7) is None


def test_the_command_writes_a_mapping_that_the_engine_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mapping, "FOLDER", tmp_path / "mappings")
    calibrate.main(["--pairs", "2"])
    learnt = mapping.load(catalog.card())
    assert str(mapping.path_of(catalog.card())) in capsys.readouterr().out
    assert len(learnt.points) == len(calibrate.LEVELS)
    assert learnt.entry(1.0) is None, "two pairs say nothing"


def test_the_house_models_own_mapping_ships_with_it():
    learnt = mapping.load(catalog.card())
    assert learnt, "the weights are others now: python -m inference.training.latent_cache"
    assert learnt.entry(1.0) is not None


@pytest.mark.parametrize("wrong", [["--pairs", "0"], ["--bound", "1.5"]], ids=str)
def test_a_command_that_can_learn_nothing_writes_nothing(tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(mapping, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        calibrate.main(wrong)
    assert not list(tmp_path.iterdir())


def test_a_mapping_of_other_weights_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "FOLDER", tmp_path)
    card = catalog.card()
    mapping.Mapping("other weights", (), 0.0).save(mapping.path_of(card))
    assert mapping.load(card) is None


def test_pairs_are_in_the_same_words_for_the_guard_and_never_the_same_prompt():
    for first, second, _ in calibrate.pairs(50, random.Random(1)):
        assert first != second
        assert signature(first) == signature(second)
