import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minissl.nn import Grads
from minissl.plots import lessons_images
from minissl.pretext.gaussian_field import GaussianField
from minissl.pretext.patches import hide_patches
from minissl.recipes import image_ablation as lesson
from minissl.recipes.image_ablation import ARMS, AblatedMAE, Arm, letters, linear_probe, measure_arm, paint_patches


@pytest.fixture(scope="module")
def field():
    return GaussianField.stationary((16, 16))


@pytest.fixture(scope="module")
def parts():
    return letters(520, 520)


def test_the_landmarks_of_the_field_are_in_order(field):
    marks = lesson.field_landmarks(field, lesson.heldout_field(field))
    assert marks.best < marks.nearest < marks.visible < marks.mean
    assert marks.best == pytest.approx(marks.floor, rel=0.03)
    assert marks.mean == pytest.approx(1, abs=0.05)


def test_what_is_painted_is_what_the_loss_compares(field):
    batch = lesson.heldout_field(field, 5)
    model = lesson.field_model()
    painted = lesson.paint(model, batch)
    assert painted.shape == batch["pixel_values"].shape
    error = lesson.squared_error(painted, batch["pixel_values"], hide_patches(batch["noise"]).mask)
    assert error == pytest.approx(float(model(**batch).loss), rel=1e-5)


def test_a_model_learns_the_field(field):
    batch = lesson.heldout_field(field, 64)
    model = lesson.field_model()
    before = float(model(**batch).loss)
    lesson.train_on_field(model, field, steps=60)
    assert float(model(**batch).loss) < 0.95 < before


def test_letters_are_in_the_middle_and_held_out_in_fonts_of_their_own(parts):
    train, heldout = parts
    assert train.images.shape == heldout.images.shape == (520, 1, 16, 16)
    assert abs(train.images.mean()) < 1e-3
    assert abs(train.images.std() - 1) < 1e-3
    assert set(train.labels) == set(heldout.labels) == set(range(26))
    fonts = [set(zip(*(part.factors[:4]), strict=True)) for part in parts]  # character, family, weight, slant
    assert not fonts[0] & fonts[1]
    ink = train.images[:, 0] > train.images.min() + 1  # well above the paper and its noise
    for axis in (1, 2):
        at = (ink.any(axis=axis) * np.arange(16)).sum(axis=1) / ink.any(axis=axis).sum(axis=1)
        assert (abs(at - 7.5) < 3).all()


@pytest.mark.parametrize("name", ARMS)
def test_the_gradient_of_every_arm_is_that_of_its_loss(name, parts):
    model = AblatedMAE(ARMS[name], seed=1).astype("float64")
    rng = np.random.default_rng(0)
    images = parts[0].images[:3].astype("float64")
    batch = {"pixel_values": images, "noise": rng.random((3, 16))}
    counts = model.counts(batch)
    grads = Grads(model)
    model.losses_and_backward(batch, counts, grads, None)
    params = [param for name, param in model.named_parameters() if "pos" not in name]  # those tables are fixed
    moves = [rng.standard_normal(param.data.shape) for param in params]
    slope = sum(float((grads[param] * move).sum()) for param, move in zip(params, moves, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        for param, move in zip(params, moves, strict=True):
            param.data += step * move
        values.append(model.losses_and_backward(batch, counts, Grads(model), None)["mae"])
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_what_an_arm_asks_for():
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype("float32")
    hidden = {name: AblatedMAE(arm, 0).counts({"pixel_values": images})["mae"] for name, arm in ARMS.items()}
    assert hidden["25 % hidden"] == 8
    assert hidden["75 % hidden"] == hidden["L1"] == hidden["normalised target"] == 24
    assert hidden["90 % hidden"] == 30
    assert hidden["all patches asked"] == 32


def test_an_arm_is_the_same_again_and_all_of_a_seed_begin_alike(parts):
    one, again = (measure_arm(parts, "L1", seed=1, steps=3) for _ in range(2))
    assert one == again
    assert one.seed == 1
    assert set(one.squared) == set(lesson.RATIOS)
    first = [param.data for _, param in AblatedMAE(Arm(), 2).named_parameters()]
    for arm in ARMS.values():
        for a, (_, b) in zip(first, AblatedMAE(arm, 2).named_parameters(), strict=True):
            np.testing.assert_array_equal(a, b.data)


def test_what_is_normalised_has_no_error_in_pixels_but_a_structure(parts):
    measured = measure_arm(parts, "normalised target", seed=0, steps=1)
    assert np.isnan([measured.absolute, *measured.squared.values()]).all()
    assert -1 <= measured.structure <= 1
    assert 0 <= measured.probe <= 1


def test_painted_patches_are_the_hidden_ones(parts):
    images = parts[1].images[:40]
    model = AblatedMAE(Arm(), 0)
    painted, true = paint_patches(model, images, 0.75)
    assert painted.shape == true.shape == (40 * 12, 16)
    noise = np.random.default_rng(lesson.HELDOUT_SEED).random((40, 16))
    assert ((painted - true) ** 2).mean() == pytest.approx(float(model(images, noise=noise).loss), rel=1e-5)
    assert [len(paint_patches(model, images, ratio)[0]) for ratio in lesson.RATIOS] == [160, 320, 480, 600]


def test_structure_is_a_correlation_within_patches():
    rng = np.random.default_rng(4)
    true = rng.standard_normal((30, 16))
    scale, shift = rng.uniform(0.5, 2, (2, 30, 1))
    assert lesson.structure(scale * true + shift, true) == pytest.approx(1)
    assert lesson.structure(-true, true) == pytest.approx(-1)
    both = np.concatenate([true, 0.01 * true])  # those without ink do not count
    assert lesson.structure(np.concatenate([true, -true]), both) == pytest.approx(1)


def test_landmarks_of_letters(parts):
    marks = lesson.letter_landmarks(parts, seeds=1)
    images, heldout = (part.images for part in parts)
    assert 0.5 < marks.mean_image < 1
    assert marks.median_image < abs(heldout - images.mean(axis=0)).mean()
    assert marks.raw_pixels > 0.2
    assert len(marks.untrained) == 1
    assert marks.untrained[0] > 2 / 26


def test_a_linear_probe_finds_what_is_linear_and_nothing_in_noise():
    rng = np.random.default_rng(3)
    labels = np.arange(600) % 3
    x = rng.standard_normal((600, 5)) + 6 * np.eye(3, 5)[labels]
    assert linear_probe(x[:300], labels[:300], x[300:], labels[300:]) > 0.97
    assert linear_probe(rng.standard_normal((300, 5)), labels[:300], x[300:], labels[300:]) < 0.5


@pytest.fixture
def drawn(monkeypatch):
    """The figures, drawn, in place of the files."""
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append((figure, path.name))

    monkeypatch.setattr(lessons_images, "save", keep)
    return kept


def test_the_paintings_are_drawn(tmp_path, drawn, monkeypatch, parts):
    monkeypatch.setattr(lesson, "letters", lambda: parts)
    lesson.reconstruction_figure(tmp_path, steps=1)
    lesson.letters_figure(tmp_path, steps=1)
    assert [name for _, name in drawn] == ["lesson-8-reconstruction.png", "lesson-9-letters.png"]
    for figure, _ in drawn:
        assert len(figure.axes) == 4 * 8
        names = [text.get_window_extent() for text in figure.texts]
        assert len(names) == 4
        first = figure.axes[0].get_window_extent()
        assert all(box.x0 >= 0 and box.x1 <= first.x0 for box in names)


def test_the_ablation_is_drawn_and_can_be_read(tmp_path, drawn, monkeypatch, parts):
    def measured(parts, steps, seeds):
        rng = np.random.default_rng(5)
        return [
            lesson.Measured(name, seed, dict(zip(lesson.RATIOS, rng.uniform(0.6, 0.9, 4), strict=True)),
                            rng.uniform(0.39, 0.45), 0.4, rng.uniform(0.25, 0.35))
            for name in ARMS for seed in range(seeds)
        ]  # fmt: skip

    monkeypatch.setattr(lesson, "letters", lambda: parts)
    monkeypatch.setattr(lesson, "run_ablation", measured)
    lesson.ablation_figure(tmp_path, seeds=2)
    ((figure, name),) = drawn
    assert name == "lesson-9-ablation.png"
    heat, errors, found = figure.axes
    assert len(heat.texts) == 16
    assert len(errors.get_lines()) == 2 + 2
    assert [tick.get_text() for tick in found.get_yticklabels()] == list(ARMS)
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in (*axes.texts, axes.title, axes.xaxis.label) if text.get_text()]
        for i, box in enumerate(boxes):
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1
            for other in boxes[:i]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                down = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert min(across, down) <= 2


def test_every_arm_runs_with_every_seed(parts, monkeypatch):
    monkeypatch.setattr(lesson, "measure_arm", lambda parts, name, seed, steps: (name, seed, steps))
    ran = lesson.run_ablation(parts, steps=7, seeds=2)
    assert ran == [(name, seed, 7) for name in ARMS for seed in range(2)]
