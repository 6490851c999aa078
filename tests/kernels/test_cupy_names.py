"""CuPy's own names and signatures, without a device: every call that ops, models and a training step make fits them."""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra: gpu)")

import emulation  # noqa: E402
import stand_in  # noqa: E402
import stand_in_cublas  # noqa: E402
from minissl import BertForPreTraining, backend  # noqa: E402
from minissl.backend import ArrayLibrary  # noqa: E402
from minissl.bench.step import bert_batch  # noqa: E402
from minissl.gradcheck.cases import op_cases  # noqa: E402
from minissl.kernels import gpu  # noqa: E402
from minissl.models.bert import BertConfig  # noqa: E402
from minissl.training.trainer import Trainer, TrainingOptions  # noqa: E402


def every_call():
    """What ops and a training step call of the library, as the stand-in saw it."""
    stand_in.CALLS.clear()
    with stand_in.in_place_of_cupy():
        for case in op_cases():
            y, cache = case.forward(**{name: stand_in.move(x) for name, x in case.inputs.items()})
            case.backward(stand_in.move(np.ones(y.shape)), cache)
        config = BertConfig(
            vocab_size=50, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=17
        )
        trainer = Trainer(BertForPreTraining(config).to("cuda"), TrainingOptions(1, 1e-3, threads=1))
        trainer.train_step([bert_batch(config, 3, 9)])
        trainer.close()
    return sorted(stand_in.CALLS)


def signature(kind, name):
    """CuPy's, where Python can tell it; of what is compiled, from the first line of its own documentation."""
    found = getattr({"function": cupy, "method": cupy.ndarray}.get(kind) or getattr(cupy, kind), name)
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        line = re.search(r"^[\w.]+\((.*?)\)(?: ->|$)", found.__doc__.strip().splitlines()[0]).group(1)
        names = re.sub(r"\b[A-Za-z_]\w* (?=\w)", "", line).replace("\\*", "*")  # `Py_ssize_t axis1` -> `axis1`
        scope = {}
        exec(f"def described({names}): pass", scope)
        return inspect.signature(scope["described"])


def fits(call):
    kind, name, arguments, keywords = call
    try:
        signature(kind, name).bind(*[None] * (arguments + (kind != "function")), **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def test_every_call_fits_cupys_signature():
    calls = every_call()
    assert len(calls) > 40
    if emulation.COMPILER is not None:
        assert {kind for kind, *_ in calls} == {"function", "method", "RawModule", "RawKernel"}
    assert [call for call in calls if not fits(call)] == []


def test_a_keyword_that_cupy_lacks_is_found():
    assert not fits(("method", "sum", 0, ("where",)))
    assert not fits(("function", "concatenate", 1, ("axes",)))
    assert not fits(("function", "exp", 1, ("where",)))
    assert not fits(("function", "RawModule", 2, ()))
    assert not fits(("RawModule", "get_function", 2, ()))
    assert not fits(("RawKernel", "__call__", 2, ()))
    assert fits(("method", "sum", 0, ("axis", "keepdims")))


def test_cupy_makes_the_module_of_kernels():
    """By doing it, up to what needs a device: RawModule's own documentation shows `code` where it may not stand."""

    class Named(cupy.RawModule):
        def get_function(self, name):
            return name

    kernels = gpu._compiled.__wrapped__(Named, np.dtype(np.float32))
    assert {"layer_norm_forward", "masked_softmax_backward", "adamw"} <= set(kernels)


def test_every_name_of_the_array_library_is_cupys():
    names = [name for name in ArrayLibrary.__annotations__ if name != "__name__"]
    assert len(names) > 15
    assert [name for name in names if not hasattr(cupy, name)] == []


def test_the_product_of_cublas_takes_what_bmm_gives_it():
    """Read in the binding's own file: to import it takes cuBLAS, which a machine without a GPU has no use for."""
    binding = Path(importlib.util.find_spec("cupy_backends.cuda.libs").origin).parent
    (file,) = binding.glob("cublas.*.so")
    line = re.search(rb"\0gemmStridedBatchedEx\(([^)]*)\)", file.read_bytes()).group(1).decode()
    names = [parameter.split()[-1] for parameter in line.split(", ")]
    assert names == list(inspect.signature(stand_in_cublas.gemmStridedBatchedEx).parameters)


def test_the_types_of_products_are_cudas():
    codes = {"f": "CUDA_R_32F", "d": "CUDA_R_64F", "e": "CUDA_R_16F", "E": "CUDA_R_16BF"}
    assert {letter: kind.factor for letter, kind in backend._KINDS.items()} == {
        letter: getattr(cupy.cuda.runtime, code) for letter, code in codes.items()
    }
    assert callable(cupy.cuda.get_cublas_handle)


def test_every_name_that_the_bench_asks_of_a_gpu_is_cupys():
    asked = ("getDeviceProperties", "runtimeGetVersion", "deviceSynchronize", "memGetInfo")
    assert [name for name in asked if not hasattr(cupy.cuda.runtime, name)] == []
    assert hasattr(cupy.cuda.Device, "id")
    assert hasattr(cupy.get_default_memory_pool(), "free_all_blocks")
