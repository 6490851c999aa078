"""A test that takes an argument named after an op gets its pair, as `softmax.forward` and `softmax.backward`.

So that `test_op_mutants.py` can call the same test with a wrong pair.
"""

from types import SimpleNamespace

from minissl import ops

PAIRS = {
    name.removesuffix("_forward"): SimpleNamespace(
        forward=getattr(ops, name), backward=getattr(ops, name.replace("_forward", "_backward"))
    )
    for name in ops.__all__
    if name.endswith("_forward")
}


def pytest_generate_tests(metafunc):
    for name in metafunc.fixturenames:
        if name in PAIRS:
            metafunc.parametrize(name, [PAIRS[name]], ids=["reference"])
        if name == "erf":
            metafunc.parametrize(name, [ops.erf], ids=["reference"])
