"""Print each bar of a run as met or missed; exit 1 where a run misses one. Times are measured, not asserted."""

import json
import sys
from pathlib import Path

m = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())
bars = [("peak memory, MB, at most", -m["peak_memory_mb"], -700)]
if "objective" in m:
    if m["floor"] is None:
        bars += [("error as a share of the training mean image's, at most", -m["ratio"], -0.5)]
    else:
        bars += [("error as a multiple of the exact floor, at most", -m["loss"] / m["floor"], -1.05)]
elif m["mlm_floor"] is None:
    bars += [
        ("nats of the masked-LM loss under unigram, at least", m["mlm_unigram"] - m["mlm_loss"], 0.8),
        ("next-sentence accuracy, at least", m["nsp_accuracy"], 0.58),
        ("pairs that it was measured on, at least", m["nsp_pairs"], 2000),
    ]
else:
    bars += [("nats over the floor, at most", m["mlm_floor"] - m["mlm_loss"], -0.05)]
for name, value, bar in bars:
    print(f"{'met   ' if value >= bar else 'MISSED'} {name} {abs(bar)}: {abs(value):.4g}")
sys.exit(any(value < bar for _, value, bar in bars))
