"""The styles' training pictures and held-out captions, and the command that trains and measures them."""

import pytest

from inference.house_model.style_judge import in_style
from inference.house_model.styles import STYLES
from inference.house_model.world import SHAPES, is_held_out
from inference.training import styles
from inference.training.styles import LESSONS


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.deep
def test_a_style_is_taught_by_a_dozen_or_two_of_pictures_of_all_shapes(name):
    lesson = styles.examples(name, seed=3)
    assert 12 <= len(lesson) == LESSONS[name].pictures <= 24
    assert all(in_style(name, styles.np.asarray(example.image)) for example in lesson)
    assert all(len(example.captions) == 2 for example in lesson)
    assert styles.examples(name, seed=3) == lesson
    assert styles.examples(name, seed=4) != lesson


@pytest.mark.parametrize("name", STYLES)
def test_captions_are_held_out_and_the_same_each_time(name):
    asked = styles.held_out(name, 40)
    assert asked[:8] == styles.held_out(name, 8)
    assert all(is_held_out(scene) for scene, _ in asked)
    assert {shape.kind for scene, _ in asked for shape in scene.shapes} == set(SHAPES)


@pytest.mark.deep
def test_the_command_trains_measures_and_trains_nothing_twice(tmp_path, capsys):
    command = ["--out", str(tmp_path), "--style", "palette", "--captions", "2", "--steps", "2"]
    styles.main(command)
    told = capsys.readouterr().out
    adapter = tmp_path / "palette-0.safetensors"
    assert f"{adapter.name}: trained in" in told
    assert told.count("in style") == 5
    before = adapter.stat()
    styles.main(command)
    assert adapter.stat() == before
    assert "trained in" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--seeds", "--captions", "--steps"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_counts_that_are_none_are_refused_before_anything_is_learnt(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        styles.main(["--out", str(tmp_path / "out"), f"{option}={value}"])
    assert "is not a whole number of at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
