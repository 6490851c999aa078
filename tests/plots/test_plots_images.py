import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minissl.errors import InputError
from minissl.plots import class_attention, feature_map
from minissl.plots.class_attention import plot_class_attention
from minissl.plots.feature_map import plot_feature_map

CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker"]


@pytest.fixture
def figures(monkeypatch):
    """The figures, drawn, in place of the files."""
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append(figure)

    for module in (class_attention, feature_map):
        monkeypatch.setattr(module, "save", keep)
    return kept


def maps(images, heads, h, w):
    """The class token's attention, which sums to 1 with its own share."""
    share = np.random.default_rng(0).dirichlet(np.ones(1 + h * w), (images, heads))
    return share[..., 1:].reshape(images, heads, h, w)


def pictures(images, channels, side=14):
    return np.random.default_rng(1).uniform(-0.2, 1.2, (images, channels, side, side))


def inside(figure):
    """Everything written lies within the figure."""
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts):
            box = text.get_window_extent()
            if text.get_text():
                assert min(box.x0, box.y0) >= -1, text
                assert box.x1 <= width + 1, text
                assert box.y1 <= height + 1, text


@pytest.mark.parametrize(
    ("images", "channels", "heads", "names"),
    [
        (8, 1, 4, ["image", "head 1", "head 2", "head 3", "head 4", "mean"]),
        (3, 3, 12, ["image", "head 1", "head 5", "head 8", "head 12", "mean of all"]),
        (1, 3, 1, ["image", "head 1", "mean"]),
    ],
)
def test_class_attention_shows_each_image_and_its_heads(figures, images, channels, heads, names):
    weights = maps(images, heads, 3, 5)
    plot_class_attention(pictures(images, channels), weights, CLOTHES[:images], "attention.png")
    *panels, bar = figures[0].axes
    assert len(panels) == images * len(names)
    assert [panels[i].get_ylabel() for i in range(0, len(panels), images)] == names
    assert [panel.get_title() for panel in panels[:images]] == CLOTHES[:images]
    np.testing.assert_allclose(panels[images].images[0].get_array(), weights[0, 0])
    np.testing.assert_allclose(panels[-1].images[0].get_array(), weights[-1].mean(axis=0))
    assert bar.lines[0].get_ydata()[0] == pytest.approx(1 / 16)
    inside(figures[0])


def test_class_attention_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="a name for each image"):
        plot_class_attention(pictures(2, 1), maps(2, 2, 3, 3), ["one"], "attention.png")
    with pytest.raises(InputError, match="expected"):
        plot_class_attention(pictures(2, 1), maps(3, 2, 3, 3), ["one", "two"], "attention.png")


@pytest.mark.parametrize(("classes", "legend"), [(3, 3), (26, 26), (62, 0)])
def test_feature_map_draws_every_point_in_its_class_colour(figures, classes, legend):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=400)
    panels = {"PCA: 40% of the variance": rng.normal(size=(400, 2)), "t-SNE": rng.normal(size=(400, 2))}
    plot_feature_map(panels, labels, [f"class {i}" for i in range(classes)], "features", "features.png")
    (figure,) = figures
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(panels)
    for axes, points in zip(figure.axes, panels.values(), strict=True):
        drawn = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, points))
    found = {
        tuple(point): tuple(colour)
        for c in figure.axes[0].collections if len(c.get_offsets())
        for point, colour in zip(c.get_offsets(), c.get_facecolors(), strict=True)
    }  # fmt: skip
    by_label = [{found[tuple(p)] for p in panels["PCA: 40% of the variance"][labels == c]} for c in range(classes)]
    assert all(len(colours) == 1 for colours in by_label)
    assert sum(len(shown.get_texts()) for shown in figure.legends) == legend
    inside(figure)


def test_feature_map_is_the_same_file_each_time_and_refuses_what_does_not_fit(tmp_path):
    points, labels = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    for name in "ab":
        plot_feature_map({"PCA": points}, labels, ["cat", "dog"], "features", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(InputError, match="expected a point"):
        plot_feature_map({"PCA": points}, labels[:-1], ["cat", "dog"], "features", tmp_path / "c")
    with pytest.raises(InputError, match="panels none"):
        plot_feature_map({}, labels, ["cat", "dog"], "features", tmp_path / "c")
