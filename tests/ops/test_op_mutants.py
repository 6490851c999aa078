"""The tests of the ops, tested: every wrong op of `tests/mutants.py` and of the museum must fail them."""

import importlib.util
import inspect
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from minissl.gradcheck import check, op_cases
from minissl.museum import EXHIBITS

HERE = Path(__file__).parent


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = load(HERE.parent / "mutants.py")
every_op = load(HERE / "test_op_every.py")
CASES = op_cases()
VALUE_TESTS = [
    test
    for path in sorted(HERE.glob("test_op_*.py"))
    if path.stem not in ("test_op_mutants", "test_op_every")
    for name, test in vars(load(path)).items()
    if name.startswith("test_")
]


def fails(test, *args, **kwargs):
    try:
        test(*args, **kwargs)
    except NameError:
        raise  # the mutant itself is broken
    except Exception:  # whatever a wrong op does, an assertion or a crash, the test has noticed
        return True
    except pytest.fail.Exception:  # `pytest.raises` did not see its exception
        return True
    return False


def caught_by_gradient_check(mutant, pair):
    for case in (case for case in CASES if case.op == mutant.op):
        try:
            if not check(pair.forward, pair.backward, case.inputs).ok:
                return True
        except ValueError:  # a transposed gradient that no longer multiplies
            return True
    return False


def caught_by_value_tests(mutant, pair):
    own = [test for test in VALUE_TESTS if mutant.op in inspect.signature(test).parameters]
    if any(fails(test, **{mutant.op: pair}) for test in own):
        return True
    cases = [replace(case, forward=pair.forward, backward=pair.backward) for case in CASES if case.op == mutant.op]
    return any(fails(every_op.test_float32_stays_float32_and_close_to_float64, case) for case in cases)


def test_names_are_unique():
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names)


def test_every_op_has_every_family():
    """Backward := 0, a missing scale, a transposed gradient, a dropped term (ReLU's derivative has none to drop)."""
    for op in {case.op for case in CASES}:
        kinds = {mutant.kind for mutant in mutants.MUTANTS if mutant.op == op}
        assert {"zero", "scale", "transposed"} <= kinds, op
        assert op == "relu" or "missing_term" in kinds, op


def test_a_mutant_whose_text_is_gone_is_an_error():
    with pytest.raises(ValueError, match="has the code changed"):
        mutants.mutated_pair(mutants.MUTANTS[0]._replace(old="what no op says"))


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant):
    pair = mutants.mutated_pair(mutant)
    caught = caught_by_value_tests if mutant.kind in mutants.LEFT_TO_VALUE_TESTS else caught_by_gradient_check
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mutant may overflow before its values are looked at
        assert caught(mutant, pair), f"{mutant.name} survives: {mutant.description}"


@pytest.mark.parametrize("exhibit", [e for e in EXHIBITS if e.op], ids=lambda exhibit: exhibit.name)
def test_exhibit_is_caught(exhibit):
    pair = exhibit.build()
    caught = caught_by_gradient_check if exhibit.is_gradient_bug else caught_by_value_tests
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert caught(exhibit, pair), f"{exhibit.name} survives: {exhibit.story}"
