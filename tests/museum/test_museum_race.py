"""The races: both sides begin alike, what a wrong one does is measured rightly, and it is drawn and said."""

import json
import math

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.museum import Exhibit, find
from minissl.museum.race import Curve, finite, in_words, race, run
from minissl.museum.tasks import Setting, make_task, nats
from minissl.plots.race import plot_race

TASKS = ["words", "text", "pairs", "patches"]


def curve(heldout, reported=None, stopped=""):
    steps = list(range(1, len(heldout) + 1))
    return Curve(steps, list(heldout), list(heldout if reported is None else reported), stopped)


class Marks:
    metric = "mlm"
    landmarks = {"chance": 4.7, "unigram": 3.7, "exact floor": 2.4}  # noqa: RUF012


@pytest.mark.parametrize("name", ["masked-mse-visible-too", "mlm-labels-everywhere"])
def test_a_race_gives_a_figure_and_the_curves(tmp_path, name):
    said = []
    race(find(name), tmp_path / "new", said.append, steps=3)
    result = json.loads((tmp_path / "new" / f"{name}.json").read_text())
    assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for side in ("right", "wrong"):
        assert len(result[side]["reported"]) == 3
        assert result[side]["steps"] == [1, 2, 3]
        assert np.isfinite(result[side]["heldout"]).all()
    assert result["right"]["heldout"] != result["wrong"]["heldout"]
    assert said[0] == result["finding"]
    assert said[0].startswith("right ")


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_curve_and_data(name):
    setting = Setting(task=name, steps=2)
    one, other = (make_task(setting, 3) for _ in range(2))
    assert run(one, setting, 3) == run(other, setting, 3)
    for key, array in one.batch(1).items():
        np.testing.assert_array_equal(array, other.batch(1)[key])
        assert len(array) == setting.batch_size
    assert any((one.batch(1)[key] != one.batch(2)[key]).any() for key in one.batch(1))


def test_an_exhibit_that_changes_nothing_draws_level():
    same = Exhibit(
        "same", "minissl.training.schedule.warmup_linear", "step / warmup", "step  /  warmup", "zero", "", ""
    )
    setting = Setting(steps=2)
    task = make_task(setting, 0)
    right = run(task, setting, 0)
    with same.installed():
        assert run(task, setting, 0) == right


def test_a_text_is_the_words_again():
    words, text = (make_task(Setting(task=name), 0) for name in ("words", "text"))
    ids = [task.batch(1) for task in (words, text)]
    np.testing.assert_array_equal(*(np.where(b["labels"] == -100, b["input_ids"], b["labels"]) for b in ids))
    np.testing.assert_array_equal(*(b["attention_mask"] for b in ids))


def test_a_pair_is_of_one_language_where_it_is_next():
    batch = make_task(Setting(task="pairs"), 0).batch(1)
    assert abs(batch["next_sentence_label"].mean() - 0.5) < 0.1
    assert batch["token_type_ids"].max() == 1


def test_the_patches_floor_is_below_what_a_linear_guess_reaches():
    task = make_task(Setting(task="patches"), 0)
    assert 0.09 < task.landmarks["exact floor"] < 0.5 * task.landmarks["guessing 0"]


def test_no_exhibit_stands_in_the_way_of_the_measurement():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((5, 7)), np.array([0, 6, 2, 2, 1])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert nats(logits, targets) == pytest.approx(-np.log(p[np.arange(5), targets]).mean())
    assert nats(1000 * logits, targets) > 100


def test_one_that_crashes_is_told(tmp_path):
    said = []
    result = race(find("linear-bias-one-axis"), tmp_path, said.append, steps=2)
    assert result["wrong"]["stopped"].startswith("step 1: InputError: a gradient of shape")
    assert result["wrong"]["heldout"] == []
    assert said[0].startswith("right ")
    assert "held-out data after 2 steps: the wrong one stops at step 1: InputError" in said[0]


def test_one_that_is_no_longer_a_number_is_told(tmp_path):
    said = []
    race(find("adamw-step-from-zero"), tmp_path, said.append, steps=2)
    assert "stops at step" in said[0] or "no longer a number" in said[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (curve([4.0, 2.71]), "training seems to work, nothing shows"),
        (curve([4.0, 2.85]), "training seems to work, a little worse than it could"),
        (curve([4.0, 3.3]), "it learns, but much less"),
        (curve([4.0, 3.8]), "it does not learn"),
        (curve([4.0, math.nan]), "the wrong one's loss is no longer a number"),
        (curve([], stopped="step 1: ValueError: shapes"), "the wrong one stops at step 1: ValueError: shapes"),
        (
            curve([4.0, 5.0], [4.0, 0.1]),
            "it does not learn; by its own report 0.10, below the exact floor, so it measures something else",
        ),
        (curve([4.0, 3.8], [4.0, 3.2]), "it does not learn; by its own report 3.20"),
    ],
)
def test_what_is_seen_is_said_in_words(wrong, words):
    assert in_words(curve([4.0, 2.7]), wrong, Marks) == words


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="--steps 0: expected 1 or more"):
        race(find("masked-mse-sum"), tmp_path, print, steps=0)
    with pytest.raises(InputError, match="--seed -1: expected 0 or more"):
        race(find("masked-mse-sum"), tmp_path, print, seed=-1)


def test_json_holds_no_nan():
    assert finite({"a": [1.0, math.inf, {"b": math.nan}], "c": "x"}) == {"a": [1.0, None, {"b": None}], "c": "x"}


def test_the_picture_holds_every_kind_of_end(tmp_path):
    marks = Marks.landmarks
    right = {"steps": [1, 2, 3], "heldout": [4.9, 3.5, 2.7], "reported": [4.9, 3.5, 2.7] * 10, "stopped": ""}
    pictures = set()
    for change in (
        {},
        {"heldout": [4.9, None, None]},
        {"heldout": [4.9, 40.0, 400.0]},
        {"reported": [4.9, *[0.1] * 29]},
        {"steps": [], "heldout": [], "reported": [], "stopped": "step 1: ValueError: " + 9 * "long words and "},
    ):
        plot_race("one is " + 20 * "wrong ", "nothing shows", "mlm", marks, right, right | change, tmp_path / "a.png")
        pictures.add((tmp_path / "a.png").read_bytes())
    assert len(pictures) == 5
