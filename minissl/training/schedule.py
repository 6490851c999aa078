"""How the learning rate changes over a run."""


def warmup_linear(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at `step` = 1 … steps: up linearly over `warmup` steps, then down to 0.

    The last step is the last with a rate above 0 (in the form of BERT's own, Devlin et al. 2019, appendix A.2).
    """
    if step <= warmup:
        return step / warmup
    return (steps + 1 - step) / (steps + 1 - warmup)
