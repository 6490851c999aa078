import numpy as np
import pytest

from minissl.errors import InputError
from minissl.plots.answers import Reading, plot_readings, plot_scores


def reading(tokens=60, answer=(3, 5), **changed):
    rng = np.random.default_rng(tokens)
    start, end = rng.dirichlet(np.full(tokens, 0.1), 2)
    words = [f"$w{i}_" for i in range(tokens)]
    return Reading("What is the $5_river, if any? " * 5, words, start, end, answer, "the\nanswer")._replace(**changed)


def test_readings_are_drawn_the_same_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        plot_readings([reading(), reading(1, (0, 0)), reading(200, (190, 199))], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plot_readings([reading(), reading(1, (0, 0)), reading(200, (1, 2))], tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()  # the true answer is seen


@pytest.mark.parametrize(
    "wrong", [{"answer": (3, 60)}, {"answer": (-1, 2)}, {"end": np.ones(7)}, {"start": np.ones(9)}]
)
def test_readings_that_do_not_fit(tmp_path, wrong):
    with pytest.raises(InputError, match="1 passages to draw"):
        plot_readings([reading(**wrong)], tmp_path / "a.png")
    with pytest.raises(InputError, match="0 passages"):
        plot_readings([], tmp_path / "a.png")


def test_scores(tmp_path):
    scores = {"random span": (0.004, 0.045), "this model": (1.0, 1.0), "a name that is too long for a line": (0, 0)}
    plot_scores(scores, "this model", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no score is called 'mine'"):
        plot_scores(scores, "mine", tmp_path / "a.png")
