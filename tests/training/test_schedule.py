from itertools import pairwise

import pytest

from minissl.training import warmup_linear


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (10, 0), (10, 1), (10, 3), (10, 10), (999, 100)])
def test_up_to_the_peak_then_down_and_never_zero(steps, warmup):
    shares = [warmup_linear(step, steps, warmup) for step in range(1, steps + 1)]
    assert all(0 < share <= 1 for share in shares)
    assert shares[:warmup] == [i / warmup for i in range(1, warmup + 1)]
    falling = shares[max(warmup - 1, 0) :]
    drops = [a - b for a, b in pairwise(falling)]
    assert drops == pytest.approx([1 / (steps + 1 - warmup)] * len(drops))
    if warmup < steps:
        assert warmup_linear(steps + 1, steps, warmup) == 0  # the step after the last would be the first without any


def test_known_values():
    assert [warmup_linear(i, 5, 2) for i in range(1, 6)] == [0.5, 1.0, 0.75, 0.5, 0.25]
    assert [warmup_linear(i, 4, 0) for i in range(1, 5)] == [0.8, 0.6, 0.4, 0.2]
    assert [warmup_linear(i, 4, 1) for i in range(1, 5)] == [1.0, 0.75, 0.5, 0.25]
