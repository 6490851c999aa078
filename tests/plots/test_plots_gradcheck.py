import io
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from minissl.errors import InputError
from minissl.gradcheck import ArgumentReport, Finding, Report, check
from minissl.ops import linear_backward, linear_forward
from minissl.plots import gradcheck
from minissl.plots.gradcheck import MOST_CELLS, _fold, _telling, _unit, _worst, plot_report

rng = np.random.default_rng(0)


def record(name, got, expected, error=1.0):
    return ArgumentReport(name, expected.shape, error, 0.0, None, math.nan, math.nan, got, expected)


def wrong(got, expected, message="the gradient of x is wrong", kind="incorrect"):
    return Report({"x": record("x", got, expected)}, [Finding(kind, "x", None, message)], 1e-7)


def right(errors):
    some = np.ones((2, 3))
    return Report({name: record(name, some, some, error) for name, error in errors.items()}, [], 1e-7)


def words(figure):
    return "\n".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def one_line(figure):
    return " ".join(text.get_text() for text in figure.texts)


def assert_readable(figure):
    """No text is cut off, and none covers another."""
    beyond = set()  # Matplotlib keeps ticks outside of the limits, undrawn
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not axis.axes.axison}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in beyond]
    texts = [t for t in texts if t.axes is None or t.axes.axison or t in t.axes.texts or t is t.axes.title]
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts]
    width, height = figure.canvas.get_width_height()
    for i, (text, box) in enumerate(boxes):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"{text} is cut off"
        for other_text, other in boxes[:i]:
            across, down = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, down) <= 2, f"{text} covers {other_text}"


def test_a_matrix_is_drawn_as_got_expected_and_their_difference():
    x, weight = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))

    def backward(dy, cache):
        dx, dweight, dbias = linear_backward(dy, cache)
        return dx, 2 * dweight, dbias

    report = check(linear_forward, backward, {"x": x, "weight": weight, "bias": rng.standard_normal(4)})
    figure = report.plot()
    assert_readable(figure)
    w = report.arguments["weight"]
    got, expected, difference = (axes.images[0] for axes in figure.axes[:3])
    np.testing.assert_allclose(got.get_array(), w.gradient)
    np.testing.assert_allclose(expected.get_array(), w.numerical)
    np.testing.assert_allclose(difference.get_array(), w.numerical / np.abs(w.numerical).max(), rtol=1e-6)
    assert got.get_clim() == expected.get_clim()
    assert difference.get_clim() == pytest.approx((-1, 1))
    assert "difference / largest |expected|" in words(figure)
    worst = np.argwhere(np.abs(w.numerical) == np.abs(w.numerical).max())[0]
    for axes in figure.axes[:3]:
        assert [line.get_xydata()[0].tolist() for line in axes.lines[-2:]] == [worst[::-1].tolist()] * 2
    said = words(figure)
    assert "weight: right but for a constant factor" in said
    assert report.findings[0].message in one_line(figure)
    assert f"worst, at {tuple(worst.tolist())}" in said
    assert "axis 0" in said
    assert "axis 1" in said


def test_leading_axes_are_folded_into_blocks_that_are_ruled_apart():
    expected = rng.standard_normal((2, 3, 4, 6))
    report = wrong(np.where(np.arange(3)[:, None, None] == 1, -expected, expected), expected)
    figure = plot_report(report)
    assert_readable(figure)
    drawn = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(drawn, np.block([[expected[i, j] for j in range(3)] for i in range(2)]))
    rules = [x[0] for x, y in (line.get_data() for line in figure.axes[0].lines) if list(y) == [0, 1]]
    assert rules == [5.5, 11.5]
    assert "blocks: axis 0\nrows: axis 2" in words(figure)
    assert "blocks: axis 1\ncolumns: axis 3" in words(figure)


@pytest.mark.parametrize(("shape", "at"), [((200, 300), 47_123), ((3, 100, 41), 5_001), ((40, 2, 40, 5), 8_765)])
def test_one_wrong_entry_of_a_large_argument_is_never_lost(shape, at):
    difference = np.zeros(shape)
    difference.flat[at] = 1e-3
    fold = _fold(_telling(difference, rng.standard_normal(shape)))
    assert max(fold.shown.shape) <= MOST_CELLS
    assert (fold.shown == at).sum() == 1
    assert len(np.unique(fold.shown)) == fold.shown.size


def test_a_cell_shows_a_differenced_entry_before_others_and_one_that_is_not_finite_before_those():
    difference = np.full((128, 128), np.nan)
    difference[2, 3] = 0.0
    difference[8, 8], difference[9, 9] = 0.5, np.inf
    telling = _telling(difference, np.full((128, 128), 7.0))
    assert _worst(difference, telling, 1e-7) == 9 * 128 + 9
    shown = _fold(telling).shown
    assert shown[1, 1] == 2 * 128 + 3
    assert shown[4, 4] == 9 * 128 + 9
    assert _fold(_telling(difference, difference)).shown[1, 1] == 2 * 128 + 3  # as beside a gradient of another shape


def test_the_worst_entry_is_in_the_map_even_beside_others_as_bad():
    difference = np.zeros((3, 40, 40, 4))
    difference[0, 19, 1, 3] = difference[0, 20, 0, 0] = np.inf
    telling = _telling(difference, difference)
    worst = _worst(difference, telling, 1e-7)
    assert worst == np.ravel_multi_index((0, 19, 1, 3), difference.shape)
    assert worst in _fold(telling).shown


def test_a_sample_of_a_large_argument_says_so_and_hatches_the_rest():
    expected = np.full((90, 150), np.nan)
    expected[::10, ::10] = rng.standard_normal((9, 15))
    got = np.where(np.isnan(expected), 1.0, expected)
    got[30, 70] += 2
    figure = plot_report(wrong(got, expected))
    assert_readable(figure)
    said = words(figure)
    assert "Each cell stands for 2 × 3 entries and shows the one that differs most." in said
    assert "135 of 13,500 entries have a numerical derivative." in said
    assert "worst, at (30, 70)" in said
    assert np.isfinite(np.ma.filled(figure.axes[2].images[0].get_array(), np.nan)).sum() == 135
    assert figure.axes[2].patch.get_hatch()


def test_a_long_message_is_wrapped_not_cut_and_is_no_mathematics():
    message = "the gradient lacks `y = x $ _a_ \\frac{1}` " * 12 + "W" * 300 + " 漢字"
    figure = plot_report(wrong(np.ones(5), np.arange(5.0), message))
    assert_readable(figure)
    drawn = "".join(text.get_text() for text in figure.texts).replace(" ", "")
    assert message.replace(" ", "").replace("漢字", "□□") in drawn


def test_vectors_are_bars_and_numbers_are_words():
    got, expected = np.arange(6.0), np.array([0, 1, np.nan, 3, 4, 3.0])
    got[1] = np.nan
    figure = plot_report(wrong(got, expected, kind="not_finite"))
    assert_readable(figure)
    bars = [[s[1, 1] for s in axes.collections[0].get_segments()] for axes in figure.axes]
    assert bars == [[0, 2, 3, 4, 5], [0, 1, 3, 4, 3], [0, 0, 0, 0.5]]
    assert "worst, at 1: got not finite, expected 1" in words(figure)
    assert "NaN or infinite" in words(figure)

    figure = plot_report(wrong(np.array(0.5), np.array(-2.0)))
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["0.5", "−2", "1.25"]


def test_a_wrong_shape_is_drawn_as_far_as_it_goes():
    got = rng.standard_normal((3, 7))
    got[2, 5] = np.inf
    figure = plot_report(wrong(got, got.T, kind="wrong_shape"))
    assert_readable(figure)
    assert [axes.images[0].get_array().shape for axes in figure.axes[:2]] == [(3, 7), (7, 3)]
    assert len(figure.axes[0].images) == 2  # what is not finite lies above
    assert "got (3, 7),\nexpected (7, 3):\nno difference to draw" in words(figure)


def test_rounding_noise_where_nothing_was_expected_is_no_error():
    noise, large = 1e-13 * rng.standard_normal(4), rng.standard_normal(4)
    report = Report({"bias": record("bias", 0 * noise, noise), "x": record("x", large, large)}, [], 1e-7)
    floor = 1e-3 * np.abs(large).max()
    assert _unit(report, 0 * noise, noise) == pytest.approx(floor)
    assert _unit(report, large, large) == _unit(report, large, noise) == np.abs(large).max()
    figure = report.plot(argument="bias")
    assert f"Next to nothing was expected, so the difference is divided by {floor:.2g}." in words(figure)
    assert_readable(figure)
    assert not [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 1]  # no ring


def test_a_right_report_is_bars_beside_the_tolerance():
    figure = right({"q": 3e-11, "k_$proj$": 0.0, "v": 2e-7}).plot()
    assert_readable(figure)
    (axes,) = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends == pytest.approx([3e-11, axes.get_xlim()[0], 2e-7])
    assert axes.get_xscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [1e-7, 1e-7]
    said = words(figure)
    for expected in ("Every gradient is right", "tolerance 1e-07", "3.0e-11", "k_$proj$  (2, 3)"):
        assert expected in said


def test_of_many_arguments_those_with_the_largest_errors_are_bars(monkeypatch):
    monkeypatch.setattr(gradcheck, "MOST_BARS", 2)
    said = words(right({"a": 3e-12, "b": 1e-12, "c": 2e-12}).plot())
    assert "the 2 largest of 3 errors" in said
    assert said.index("a  (2, 3)") < said.index("c  (2, 3)")
    assert "b  (2, 3)" not in said


def test_the_most_wrong_argument_is_drawn_unless_another_is_named():
    some = np.ones(3)
    records = {n: record(n, e * some, some, e) for n, e in (("q", 1e-12), ("k", 0.1), ("v", 0.7), ("b", 0.9))}
    findings = [Finding("scale", "k", None, "k is off"), Finding("sign", "v", None, "v is off")]
    report = Report(records, [*findings, Finding("precision", "b", None, "b is noise")], 1e-7)
    assert "v: right but for the sign" in words(report.plot())
    assert "k: right but for a constant factor" in words(report.plot(argument="k"))
    assert "q: the gradient is right" in words(report.plot(argument="q"))
    with pytest.raises(InputError, match="no argument 'w'; its arguments: q, k, v, b"):
        report.plot(argument="w")
    nothing = Report({}, [Finding("vacuous", "", None, "nothing was checked")], 1e-7)
    assert words(nothing.plot()) == "This check could not have failed\nnothing was checked"


def test_the_same_bytes_each_time_whoever_saves_them(tmp_path):
    report = wrong(2 * np.eye(3, 4), np.eye(3, 4))
    buffer = io.BytesIO()
    figure = report.plot()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):  # a person's own taste
        figure.savefig(buffer, format="png", metadata={"Software": None})
        assert report.plot(tmp_path / "x.png").axes
    assert (tmp_path / "x.png").read_bytes() == buffer.getvalue()
