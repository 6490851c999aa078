"""Exit 1 where a finished run misses what the main job promises to have learned. Times are measured, not asserted."""

import json
import sys
from pathlib import Path

m = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())
if m["mlm_floor"] is None:
    bars = {
        "masked-LM loss at least 0.8 nats under unigram": m["mlm_unigram"] - m["mlm_loss"] >= 0.8,
        "next-sentence accuracy at least 0.58": m["nsp_accuracy"] >= 0.58,
        "over at least 2,000 pairs": m["nsp_pairs"] >= 2000,
    }
else:
    bars = {"masked-LM loss within 0.05 nats of the floor": abs(m["mlm_loss"] - m["mlm_floor"]) <= 0.05}
bars["peak memory at most 700 MB"] = m["peak_memory_mb"] <= 700
for name, met in bars.items():
    print(f"{'met   ' if met else 'MISSED'} {name}")
sys.exit(not all(bars.values()))
