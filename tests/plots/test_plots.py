import math
import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minissl.errors import InputError
from minissl.plots import attention as attention_plots
from minissl.plots import loss as loss_plots
from minissl.plots.attention import evenly, plot_attention, printable
from minissl.plots.loss import plot_losses, smoothed, spread

LANDMARKS = {"mlm_chance": math.log(8192), "mlm_unigram": 6.38, "mlm_floor": None}


def log(steps, nsp=True, heldout=True, start=9.0, end=5.2):
    """A log as training writes it: a steep fall, then a slow one, with the noise of single batches."""
    rng = np.random.default_rng(steps)
    records = []
    for step in range(1, steps + 1):
        t = step / steps
        mlm = end + (start - end) * (0.6 * math.exp(-30 * t) + 0.4 * math.exp(-4 * t))
        record = {"step": step, "mlm": mlm + 0.17 * rng.normal(), "grad_norm": 1.2, "lr": 1e-4}
        if nsp:
            record["nsp"] = 0.693 - 0.04 * t + 0.07 * rng.normal()
        if heldout and step % max(1, steps // 20) == 0:
            record["heldout_mlm_loss"] = mlm + 0.05
            record["heldout_nsp_loss"] = 0.70 - 0.04 * t if nsp else None
        records.append(record)
    return records


def maps(layers, heads, tokens, sharpness=2.0):
    rng = np.random.default_rng(0)
    scores = sharpness * rng.normal(size=(layers, 1, heads, tokens, tokens))
    weights = np.exp(scores)
    return tuple((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32))


def png_size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


def written(figure):
    """Text and box of everything that a person can read in the figure."""
    beyond = set()  # Matplotlib keeps ticks outside of the limits, undrawn
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in beyond]
    return [(t.get_text(), Text.get_window_extent(t)) for t in texts]  # of an annotation the words, not the line


def assert_readable(figure):
    """Nothing written is cut off, and nothing covers another."""
    boxes = written(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for i, (text, box) in enumerate(boxes):
        for other_text, other in boxes[:i]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, down) <= 2, (text, other_text)


@pytest.fixture
def figures(monkeypatch):
    """The figures, drawn, in place of the files."""
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append(figure)

    for module in (loss_plots, attention_plots):
        monkeypatch.setattr(module, "save", keep)
    return kept


@pytest.mark.parametrize(("nsp", "size"), [(True, (2100, 840)), (False, (1050, 840))])
def test_losses_are_a_png_of_one_or_two_panels_with_the_same_bytes_each_time(tmp_path, nsp, size):
    plot_losses(log(300, nsp), LANDMARKS, tmp_path / "loss.png")
    assert png_size(tmp_path / "loss.png") == size
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 20, "axes.facecolor": "red"}):  # a person's own taste
        plot_losses(log(300, nsp), LANDMARKS, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "loss.png").read_bytes()
    assert b"Software" not in (tmp_path / "loss.png").read_bytes()


@pytest.mark.parametrize(
    ("steps", "nsp", "heldout", "end", "floor"),
    [
        (1, True, True, 5.2, None),
        (3, True, False, 6.38, None),
        (50_000, False, True, 5.2, None),
        (400, True, True, 6.35, 6.3),  # held-out, unigram and floor all but coincide
        (400, False, True, 0.001, 0.0),
    ],
)
def test_losses_can_be_read(figures, steps, nsp, heldout, end, floor):
    plot_losses(log(steps, nsp, heldout, end=end), {**LANDMARKS, "mlm_floor": floor}, "loss.png")
    assert_readable(figures[0])
    assert len(figures[0].axes) == 1 + nsp
    words = " | ".join(text for text, _ in written(figures[0]))
    assert "9.01 chance ln V" in words
    assert "6.38 unigram" in words
    assert ("exact floor" in words) == (floor is not None)
    assert ("0.693 chance ln 2" in words) == nsp
    assert ("held-out" in words) == heldout


def test_losses_say_how_far_the_last_heldout_loss_is_from_the_landmarks(figures):
    records = [{"step": 1, "mlm": 9.0, "nsp": 0.7}, {"step": 2, "mlm": 4.0, "nsp": 0.6}]
    records[1] |= {"heldout_mlm_loss": 5.0, "heldout_nsp_loss": 0.75}
    plot_losses(records, {**LANDMARKS, "mlm_floor": 3.2}, "loss.png")
    words = [text for text, _ in written(figures[0])]
    assert "held-out 5.00 nats, 1.38 below unigram, 1.80 above exact floor" in words
    assert "held-out 0.750 nats, 0.057 above chance ln 2" in words
    lines = [line.get_xydata().tolist() for line in figures[0].axes[0].get_lines()]
    assert [[1, 9.0], [2, 4.0]] in lines
    assert [[2, 5.0]] in lines


@pytest.mark.parametrize("records", [[], [{"step": 1, "mlm": math.nan}], [{"step": 1, "nsp": 0.7}]])
def test_losses_refuse_a_log_without_any(tmp_path, records):
    with pytest.raises(InputError, match="no masked-LM loss"):
        plot_losses(records, LANDMARKS, tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())


def test_smoothed_keeps_a_straight_line_and_its_start_and_averages_noise():
    line = np.linspace(9, 5, 400)
    np.testing.assert_allclose(smoothed(line)[:-10], line[:-10], rtol=1e-12)
    noise = np.random.default_rng(0).normal(size=4000)
    assert smoothed(noise)[100:].std() < 0.12  # 201 values: 1 / sqrt(201) = 0.07
    assert smoothed(np.array([3.0])).tolist() == [3.0]


@pytest.mark.parametrize("heights", [[0.5], [0.1, 0.5, 0.9], [0.3, 0.3, 0.3], [0.97, 0.98, 1.0], [0.0, 0.01, 0.5]])
def test_spread_moves_labels_apart_only_where_they_touch(heights):
    spaced = spread(heights, 0.07)
    assert min(np.diff(spaced), default=1) >= 0.07 - 1e-12
    assert max(spaced) <= 1
    if min(np.diff(heights), default=1) >= 0.07:
        assert spaced == heights


def test_attention_is_a_png_with_the_same_bytes_each_time(tmp_path):
    tokens = [f"word{i}" for i in range(9)]
    plot_attention(maps(2, 2, 9), tokens, tmp_path / "attention.png")
    plot_attention(maps(2, 2, 9), tokens, tmp_path / "again.png")
    width, height = png_size(tmp_path / "attention.png")
    # 2 maps of 1.9 inches each way, names of 5 letters, titles and the colour bar, at 150 dots an inch
    assert (width, height) == (int(150 * (2 * 2.0 + 5 * 0.085 + 2.0)), int(150 * (2 * 2.25 + 5 * 0.085 + 1.0)))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "attention.png").read_bytes()


@pytest.mark.parametrize(
    ("layers", "heads", "length", "panels", "shown", "title"),
    [
        (1, 1, 1, 1, 1, "Who attends to whom"),
        (2, 2, 24, 4, 24, "Who attends to whom"),
        (1, 1, 40, 1, 32, "the first 32 of 40 tokens"),
        (12, 6, 20, 16, 12, "4 of 12 layers, 4 of 6 heads, the first 12 of 20 tokens"),
    ],
)
def test_attention_can_be_read_and_says_what_it_leaves_out(figures, layers, heads, length, panels, shown, title):
    tokens = ["[CLS]", "##ing", "$", "_", "[MASK]", "internationalisation", *["word"] * length][:length]
    weights = maps(layers, heads, length)
    plot_attention(weights, tokens, "attention.png")
    assert_readable(figures[0])
    assert figures[0].get_suptitle().endswith(title)
    grid = figures[0].axes[:-1]  # the last is the colour bar
    assert len(grid) == panels
    assert grid[-1].get_title() == f"layer {layers}, head {heads}"
    np.testing.assert_array_equal(grid[-1].get_images()[0].get_array(), weights[-1][0, -1, :shown, :shown])
    assert len({image.get_clim() for axes in grid for image in axes.get_images()}) == 1


def test_attention_writes_tokens_letter_for_letter(figures):
    tokens = ["$x^2$", r"$\frac{$", "a_b", "##ing", "日本", "\u200b\n", "caf\u00e9"]
    plot_attention(maps(1, 1, 7), tokens, "attention.png")  # drawing fails for wrong mathematics and missing letters
    for axis in (figures[0].axes[0].xaxis, figures[0].axes[0].yaxis):
        labels = axis.get_ticklabels()
        assert [label.get_text() for label in labels] == ["$x^2$", r"$\frac{$", "a_b", "##ing", "□□", "□□", "caf\u00e9"]
        assert not any(label.get_parse_math() for label in labels)
    assert printable("a" * 40) == "a" * 11 + "…"


def test_attention_of_an_untrained_model_is_pale(figures):
    plot_attention([np.full((1, 1, 10, 10), 0.1)], ["word"] * 10, "attention.png")
    image = figures[0].axes[0].get_images()[0]
    assert image.norm(0.1) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("attentions", "tokens"),
    [((), ["a"]), (maps(1, 2, 3), ["a", "b"]), (maps(1, 2, 3)[0], ["a"] * 3), ([np.zeros((1, 1, 0, 0))], [])],
)
def test_attention_refuses_what_does_not_fit(tmp_path, attentions, tokens):
    with pytest.raises(InputError, match=r"expected \(1, heads, tokens, tokens\)"):
        plot_attention(attentions, tokens, tmp_path / "attention.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [1, 3, 4, 5, 12, 24])
def test_evenly_holds_the_first_and_the_last(number):
    chosen = evenly(number, 4)
    assert (chosen[0], chosen[-1]) == (0, number - 1)
    assert len(chosen) == min(number, 4)
    assert (np.diff(chosen) > 0).all()


def test_pyplot_and_the_settings_of_others_stay_alone(tmp_path):
    script = f"""
import sys
import matplotlib
before = matplotlib.rcParams.copy()
from minissl.plots.attention import plot_attention
from minissl.plots.loss import plot_losses
import numpy as np
plot_losses([{{"step": 1, "mlm": 9.0}}], {{"mlm_chance": 9.0}}, {str(tmp_path / "loss.png")!r})
plot_attention([np.eye(3)[None, None]], list("abc"), {str(tmp_path / "attention.png")!r})
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.png", "loss.png"]
