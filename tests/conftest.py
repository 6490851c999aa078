"""What several test files use."""

import os
import random
import signal

import pytest

# tests are small, and the same on every machine, with one BLAS thread; it must be said before NumPy is imported
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")


# A shell that starts the tests in the background has them ignore Ctrl-C, and every process they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="stand-in", choices=("stand-in", "cuda"),
        help="where tests of a device run: on a strict stand-in for CuPy (the default), or on a GPU, with CuPy",
    )  # fmt: skip


def pytest_configure(config):
    if config.getoption("device") == "cuda":
        from minissl.backend import require_device
        from minissl.errors import InputError

        try:
            require_device("cuda")
        except InputError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.fixture
def cupy(request):
    """The array library of the device that `--device` names, where minissl looks for CuPy.

    The stand-in comes without kernels, which it runs thread by thread: tests/kernels/ has them.
    """
    if request.config.getoption("device") == "cuda":
        import cupy

        yield cupy
    else:
        from stand_in import in_place_of_cupy

        with in_place_of_cupy() as library:
            vars(library).pop("RawModule", None)
            yield library


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Whole runs in a moment: no pictures, a few held-out rows, and a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minissl.recipes.pretrain.HELDOUT_ROWS", 64)
    monkeypatch.setattr("minissl.recipes.pretrain.CURVE_BATCHES", 1)
    monkeypatch.setattr("minissl.plots.loss.plot_losses", lambda records, landmarks, path: None)
    monkeypatch.setattr("minissl.plots.attention.plot_attention", lambda attentions, tokens, path: None)


@pytest.fixture
def small_text(tmp_path):
    """A text of 30 documents, one sentence on a line, no sentence twice."""
    rng = random.Random(0)
    who = ["the cat", "a dog", "my uncle", "the old man", "a bird", "our river", "the king", "a ship", "her brother"]
    does = ["sees", "follows", "forgets", "remembers", "paints", "hears", "leaves", "finds", "calls", "wants"]
    count = iter(range(10_000))
    documents = [
        [f"{rng.choice(who).capitalize()} {rng.choice(does)} {rng.choice(who)} on day {next(count)}." for _ in range(9)]
        for _ in range(30)
    ]
    path = tmp_path / "small.txt"
    path.write_text("\n\n".join("\n".join(d) for d in documents) + "\n", encoding="utf-8")
    return path
