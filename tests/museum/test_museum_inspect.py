"""Every exhibit is caught, and nothing that is right is flagged."""

from importlib import import_module

import pytest

from minissl.museum import EXHIBITS
from minissl.museum.inspect import inspect, inspect_right


@pytest.fixture(autouse=True, scope="module")
def _without_diagnosis():
    """Whether something is wrong is what these tests ask; what it is called, `minissl museum check` counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minissl.museum.inspect.TELLING", 1)
        attempt = import_module("minissl.gradcheck.check")._Attempt
        patch.setattr(attempt, "explain", lambda self, record, finding: [finding])
        patch.setattr(import_module("minissl.gradcheck.model"), "_every_entry", lambda data, loss: None)
        yield


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_an_exhibit_is_caught(exhibit):
    assert not inspect(exhibit).ok


def test_nothing_that_is_right_is_flagged():
    for found in inspect_right():
        assert found.ok, (found.by, found.findings)
