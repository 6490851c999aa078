import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minissl.ops import attention_forward
from minissl.plots import lessons_attention as plots
from minissl.plots.lessons_attention import FIGURES, Masked, heads_by_hand, plot_ablation, plot_posteriors


@pytest.fixture
def drawn(monkeypatch):
    """The figures, drawn, in place of the files, with the names of the files."""
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append((figure, path.name))

    monkeypatch.setattr(plots, "save", keep)
    return kept


def assert_readable(figure):
    """No text is cut off, and none but the numbers at the axes covers another."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {tick.label1 for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in ticks]
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts]
    width, height = figure.canvas.get_width_height()
    assert len(boxes) >= 4
    for i, (text, box) in enumerate(boxes):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"{text} is cut off"
        for other_text, other in boxes[:i]:
            across, down = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, down) <= 2, f"{text} covers {other_text}"


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_its_name_and_can_be_read(name, tmp_path, drawn):
    FIGURES[name](tmp_path)
    ((figure, file),) = drawn
    assert file == f"{name}.png"
    assert_readable(figure)


def test_the_same_bytes_each_time(tmp_path):
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
        FIGURES["lesson-5-masks"](folder)
    one, two = ((folder / "lesson-5-masks.png").read_bytes() for folder in folders)
    assert one.startswith(b"\x89PNG")
    assert one == two


def test_scores_of_width_d_spread_by_its_root_and_the_factor_takes_that_back():
    for width in (16, 256):
        spread, _, gradient = plots.score_statistics(width, scaled=False)
        scaled_spread, weight, scaled_gradient = plots.score_statistics(width, scaled=True)
        assert spread == pytest.approx(scaled_spread * np.sqrt(width))
        assert 0.9 < scaled_spread < 1.1
        assert weight < 0.3
        assert gradient < scaled_gradient
    assert gradient < scaled_gradient / 20


def test_the_masks_that_are_drawn_are_those_that_attention_gets(drawn, tmp_path):
    FIGURES["lesson-5-masks"](tmp_path)
    masks = [np.asarray(axes.get_images()[0].get_array(), bool) for axes in drawn[0][0].axes]
    x = np.random.default_rng(0).standard_normal((5, 4))
    for mask, empty in zip(masks, (0, 0, 2), strict=True):
        y, _ = attention_forward(x, x, x, mask)
        assert (~y.any(axis=-1)).sum() == empty
    assert not masks[0][:, 3:].any()
    np.testing.assert_array_equal(masks[1], np.tri(5, dtype=bool))


def test_heads_made_by_hand_look_where_they_should():
    heads = list(heads_by_hand().values())
    before, same, nouns, merged = heads
    np.testing.assert_allclose([head.sum(axis=-1) for head in heads], 1)
    assert before[7].argmax() == 6
    np.testing.assert_allclose(same[7, [4, 7]], 0.5, atol=0.01)  # cat, and cat
    np.testing.assert_allclose(nouns[8, [1, 4, 7]], 1 / 3, atol=0.01)
    assert merged[7].max() < 0.4


def test_posteriors_and_ablation_can_be_read(drawn, tmp_path):
    rng = np.random.default_rng(1)
    names = [f"word{i}" for i in range(24)]
    panels = [Masked(["word"] * 13, truth, rng.dirichlet(np.ones(24)), rng.dirichlet(np.ones(24))) for truth in (2, 9)]
    plot_posteriors(panels, names, tmp_path / "posterior.png")
    curves = [(name, [0, 5, 10], [3.4, end + 0.2, end]) for name in ("80/10/10", "all [MASK]") for end in (0.5, 1.7)]
    marks = {"chance": 3.37, "what would suit here": 1.59, "best under 80/10/10": 1.58}  # two that all but coincide
    plot_ablation([("one", curves, marks), ("two", curves, marks)], tmp_path / "ablation.png")
    for figure, _ in drawn:
        assert_readable(figure)
    assert drawn[0][0].axes[1].get_xticklabels()[9].get_color() == plots.RED
