"""Gradient checks: is what a backward pass returns the derivative of what its forward pass computes?

    report = check(layer_norm_forward, layer_norm_backward, {"x": x, "gain": gain, "bias": bias, "eps": 1e-12})
    print(report)

`check` is for a pair of functions, `check_module` for a module, `check_model` for a model with its loss.
`op_cases` are the inputs that minissl's own ops are checked with.
"""

from minissl.gradcheck.cases import Case, op_cases
from minissl.gradcheck.check import check
from minissl.gradcheck.model import check_model, check_module
from minissl.gradcheck.report import ArgumentReport, Finding, Report

__all__ = ["ArgumentReport", "Case", "Finding", "Report", "check", "check_model", "check_module", "op_cases"]
