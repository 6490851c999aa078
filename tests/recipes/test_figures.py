from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minissl.errors import InputError
from minissl.plots import lessons, lessons_images
from minissl.recipes import figures
from minissl.recipes.figures import listing, rebuild

QUICK = ["lesson-1-two-layer-net", "lesson-2-gradient", "lesson-3-projection"]


def test_figures_are_drawn_anew_with_the_same_bytes(tmp_path):
    said = []
    rebuild(QUICK, tmp_path / "new" / "figures", said.append)
    rebuild(QUICK, tmp_path, lambda line: None)
    assert [Path(line.split(" (")[0]).stem for line in said] == QUICK
    for name in QUICK:
        drawn = (tmp_path / f"{name}.png").read_bytes()
        assert drawn.startswith(b"\x89PNG")
        assert drawn == (tmp_path / "new" / "figures" / f"{name}.png").read_bytes()


def test_without_a_name_every_figure_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "figures", lambda: dict.fromkeys(["one", "two"], drawn.append))
    rebuild([], tmp_path, lambda line: None)
    assert drawn == [tmp_path, tmp_path]


def test_a_wrong_name_is_answered_with_the_right_ones_before_anything_is_drawn(tmp_path):
    with pytest.raises(InputError, match=r"no figure 'docs-loss'; there are: lesson-1.*lesson-4.*minissl pretrain"):
        rebuild(["lesson-2-gradient", "docs-loss"], tmp_path / "new", print)
    assert not (tmp_path / "new").exists()


def test_the_list_names_every_figure_with_what_it_shows():
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(figures.figures())
    assert all(len(line.split()) > 5 for line in lines)
    assert "docs-loss" in lines[-1]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in (lessons, lessons_images) for name in module.FIGURES]
)
def test_nothing_written_in_a_lessons_figure_covers_another(module, name, tmp_path, monkeypatch):
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append((figure, path))

    monkeypatch.setattr(module, "save", keep)
    monkeypatch.setattr(lessons, "arriving", lambda stack: (np.linspace(1, 0, 25), np.ones(25)))  # 3 s
    module.FIGURES[name](tmp_path)
    figure, path = kept[0]
    assert path == tmp_path / f"{name}.png"
    width, height = figure.canvas.get_width_height()
    boxes = written(figure)
    assert len(boxes) >= 4
    for i, (text, box) in enumerate(boxes):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"{text} is cut off"
        for other_text, other in boxes[:i]:
            across, down = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, down) <= 2, f"{text} covers {other_text}"


def written(figure):
    """Text and box of all words but the numbers at the axes, of which Matplotlib keeps some undrawn."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {tick.label1 for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in ticks]
    return [(t.get_text(), Text.get_window_extent(t)) for t in texts]


def test_the_labels_that_are_ignored_decide_what_is_learnt():
    losses, accuracies = lessons.train_pairs(ignored=None)
    assert losses[0] == pytest.approx(np.log(2))
    assert accuracies[-1] > 0.8
    losses_0, accuracies_0 = lessons.train_pairs(ignored=0)
    assert losses_0[-1] < losses[-1] / 10
    assert abs(accuracies_0[-1] - 0.5) < 0.01


def test_a_residual_connection_is_what_carries_the_gradient():
    kept = {}
    for wiring in ("pre-norm", "post-norm", "no residual"):
        shares, factors = lessons.arriving(lessons.layers(wiring, 0.08, depth=6))
        kept[wiring] = shares[-1]
        if wiring == "post-norm":
            np.testing.assert_allclose(shares, factors, atol=0.06)
    assert abs(kept["pre-norm"] - 1) < 0.05
    assert 0.3 < kept["post-norm"] < 0.6
    assert abs(kept["no residual"]) < 0.05
