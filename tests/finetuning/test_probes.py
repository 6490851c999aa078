"""Linear probes and nearest neighbours, against direct computations and on features that decide the class."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning import probes
from minissl.finetuning.probes import LinearProbe, Standard, nearest_neighbours, penalised_loss, principal_components
from minissl.gradcheck import check
from minissl.workers import Workers


@pytest.fixture
def workers():
    made = Workers(2)
    yield made
    made.close()


def clusters(rows, seed, spread=0.4, classes=4, width=7):
    """Rows around one centre for each class; the width and a scale of each feature are those of no standard kind."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    targets = rng.integers(classes, size=rows)
    x = centres[targets] + spread * rng.standard_normal((rows, width))
    return (x * np.logspace(-1, 1, width) + 5).astype(np.float32), targets


def test_gradient_of_the_penalised_loss():
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((11, 5)), rng.integers(3, size=11)

    def forward(weight, bias):
        return penalised_loss(weight, bias, x, targets, 0.3)

    report = check(
        lambda **given: (np.asarray(forward(**given)[0]), forward(**given)[1]),
        lambda dy, backward: backward(float(dy)),
        {"weight": rng.standard_normal((5, 3)), "bias": rng.standard_normal(3)},
    )
    assert report.ok, str(report)


def test_standard_features_have_mean_0_and_spread_1_and_constants_stay():
    x, _ = clusters(200, 0)
    x = np.concatenate([x, np.full((200, 1), 3, np.float32)], axis=1)
    scaled = Standard.of(x).apply(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(axis=0)[:-1], 1, atol=1e-3)
    np.testing.assert_array_equal(scaled[:, -1], 0)


def test_the_solution_is_a_minimum(monkeypatch):
    x, targets = clusters(90, 0, spread=1.5)
    monkeypatch.setattr(probes, "TOLERANCE", 2e-5)
    probe = LinearProbe(4).fit(x, targets)
    standard = Standard.of(x).apply(x).astype(np.float64)

    def loss(solution):
        weight = solution.reshape(-1, 4)
        return penalised_loss(weight[:-1], weight[-1], standard, targets, probe.penalty)[0]

    least = loss(probe._solution)
    rng = np.random.default_rng(0)
    assert all(loss(probe._solution + 0.01 * rng.standard_normal(probe._solution.shape)) > least for _ in range(20))


def test_scale_does_not_matter_to_the_linear_probe():
    x, targets = clusters(120, 0)
    unseen, truth = clusters(300, 1)
    said = LinearProbe(4).fit(x, targets).predict(unseen)
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert (said.argmax(axis=1) == truth).mean() > 0.9
    again = LinearProbe(4).fit(1000 * x - 7, targets).predict(1000 * unseen - 7)
    np.testing.assert_allclose(again, said, atol=0.02)


def test_noise_wants_a_stronger_penalty_than_what_decides():
    rng = np.random.default_rng(0)
    noise, any_class = rng.standard_normal((60, 40)).astype(np.float32), rng.integers(3, size=60)
    x, targets = clusters(400, 0, spread=0.3)
    assert LinearProbe(3).fit(noise, any_class).penalty > LinearProbe(4).fit(x, targets).penalty


def test_one_fold_is_enough_of_many_rows_and_few_rows_take_all(monkeypatch):
    calls = []
    solve = LinearProbe._solve
    monkeypatch.setattr(LinearProbe, "_solve", lambda self, x, *rest: calls.append(len(x)) or solve(self, x, *rest))
    x, targets = clusters(50, 0)
    LinearProbe(4).fit(x, targets)
    assert calls == [40] * (5 * len(probes.PENALTIES)) + [50]
    calls.clear()
    monkeypatch.setattr(probes, "JUDGED", 10)
    LinearProbe(4).fit(x, targets)
    assert calls == [40] * len(probes.PENALTIES) + [50]


def test_nearest_neighbours_against_the_definition(workers, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK", 7)  # several chunks, the last one short
    x, targets = clusters(60, 0, spread=1.0)
    asked, _ = clusters(25, 1, spread=1.0)
    found = nearest_neighbours(x, targets, asked, 4, workers, neighbours=5)
    mean = x.mean(axis=0)
    for query, votes in zip(asked, found, strict=True):
        likeness = (x - mean) @ (query - mean)
        likeness /= np.linalg.norm(x - mean, axis=1) * np.linalg.norm(query - mean)
        expected = np.zeros(4)
        for row in np.argsort(-likeness)[:5]:
            expected[targets[row]] += np.exp((likeness[row] - 1) / 0.07)
        np.testing.assert_allclose(votes, expected, rtol=1e-3, atol=1e-8)


def test_with_fewer_rows_than_neighbours_all_vote(workers):
    x = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    votes = nearest_neighbours(x, np.array([0, 1, 1]), x, 2, workers)
    assert votes.argmax(axis=1).tolist() == [0, 1, 1]


def test_principal_components_are_uncorrelated_and_hold_their_share():
    x, _ = clusters(80, 0)
    points, share = principal_components(x, 2)
    values = np.linalg.eigvalsh(np.cov(x.astype(float).T))[::-1]
    covariance = np.cov(points.T)
    np.testing.assert_allclose(covariance, np.diag(values[:2]), rtol=1e-5, atol=1e-5 * values[0])
    assert share == pytest.approx(values[:2].sum() / values.sum())


@pytest.mark.parametrize("shape", [(0, 3), (5,), (4, 3)])
def test_rows_and_classes_that_do_not_fit(workers, shape):
    features, targets = np.zeros(shape, np.float32), np.zeros(5, int)
    with pytest.raises(InputError, match="expected a class for each row"):
        LinearProbe(2).fit(features, targets)
    with pytest.raises(InputError, match="expected a class for each row"):
        nearest_neighbours(features, targets, features, 2, workers)


def test_a_class_that_is_none(workers):
    with pytest.raises(InputError, match="classes"):
        LinearProbe(2).fit(np.zeros((2, 3), np.float32), np.array([0, 2]))
    with pytest.raises(InputError, match="0 neighbours"):
        nearest_neighbours(np.zeros((2, 3)), np.array([0, 1]), np.zeros((2, 3)), 2, workers, neighbours=0)
