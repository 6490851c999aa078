import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minissl.nn import Grads
from minissl.plots import lessons_images
from minissl.pretext.gaussian_field import GaussianField
from minissl.pretext.patches import hide_patches
from minissl.recipes import image_ablation as lesson
from minissl.recipes.image_ablation import ARMS, AblatedMAE, Arm, errors_at, letters, linear_probe, train_arm


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


def test_an_arm_is_the_same_again_and_ended_early_it_is_the_beginning(parts):
    _, whole = train_arm(parts, Arm(), seed=1, steps=20)
    _, again = train_arm(parts, Arm(), seed=1, steps=20, until=4)
    assert list(again) == [0, 2, 4]
    assert again == {step: whole[step] for step in again}
    _, other = train_arm(parts, Arm(everywhere=True), seed=1, steps=20, until=4)
    assert other[0] == whole[0]  # the same weights to begin with
    assert other[4] != whole[4]


def test_errors_are_those_of_the_hidden_patches(parts):
    images = parts[1].images
    model = AblatedMAE(Arm(), 0)
    noise = np.random.default_rng(lesson.HELDOUT_SEED).random((len(images), 16))
    assert errors_at(model, images, 0.75).squared == pytest.approx(float(model(images, noise=noise).loss), rel=1e-5)


def test_a_linear_probe_finds_what_is_linear_and_nothing_in_noise():
    rng = np.random.default_rng(3)
    labels = np.arange(600) % 3
    x = rng.standard_normal((600, 5)) + 6 * np.eye(3, 5)[labels]
    assert linear_probe(x[:300], labels[:300], x[300:], labels[300:]) > 0.97
    assert linear_probe(rng.standard_normal((300, 5)), labels[:300], x[300:], labels[300:]) < 0.5


def test_the_paintings_are_drawn(tmp_path, monkeypatch):
    kept = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append((figure, path))

    monkeypatch.setattr(lessons_images, "save", keep)
    lesson.reconstruction_figure(tmp_path, steps=1)
    ((figure, path),) = kept
    assert path == tmp_path / "lesson-8-reconstruction.png"
    assert len(figure.axes) == 4 * 8
    width, _ = figure.canvas.get_width_height()
    names = [text.get_window_extent() for text in figure.texts]
    assert len(names) == 4
    first = figure.axes[0].get_window_extent()
    assert all(box.x0 >= 0 and box.x1 <= first.x0 < width for box in names)
