"""`minissl probe`: what an encoder's features know of the classes, beside raw pixels and an untrained encoder.

The encoder stays as it is, and sees every patch. A linear probe and nearest neighbours learn from the class token and
the mean of the patches, side by side; the same two learn from the pixels, and from the features of the same
architecture with random weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minissl.backend import Array, require_device
from minissl.errors import require_values
from minissl.files import write_json
from minissl.finetuning.baselines import majority
from minissl.finetuning.image_classification import classes_of, encode
from minissl.finetuning.probes import LinearProbe, nearest_neighbours, principal_components
from minissl.models.vit import ViTModel
from minissl.recipes.image_finetuning import ImageMaterial, draw_attention, flat, load_material, rows_for
from minissl.training.run_folder import METRICS, RunFolder
from minissl.vision.images import Images
from minissl.workers import Workers, available_cores

NAMES = ("encoder", "untrained encoder", "raw pixels")
KINDS = ("linear", "neighbours")
MAPPED = 2000  # held-out images in the map of features
MAP, ATTENTION = "features.png", "attention.png"


@dataclass(frozen=True)
class ProbeOptions:
    """What `minissl probe` can be told."""

    model: str
    data: str = "glyphs"
    image_size: int | None = None
    interpolate: bool = False
    labels_per_class: int = 0  # 0: all
    seeds: tuple[int, ...] = (0,)
    threads: int = field(default_factory=available_cores)
    device: str = "cpu"

    def __post_init__(self) -> None:
        expected: list[tuple[str, bool, str]] = [
            ("labels_per_class", self.labels_per_class >= 0, "how many images of each class to learn from (0: all)"),
            ("seeds", bool(self.seeds) and min(self.seeds) >= 0, "numbers from 0, such as 0 1 2"),
            ("threads", self.threads >= 1, "1 or more"),
        ]
        require_values(self, expected)
        require_device(self.device)


def probe(options: ProbeOptions, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Probe into the new folder `out`, once for each seed; return the metrics. The pictures are of the first seed.

    Raises InputError for what a person got wrong; nothing is left behind then, nor after Ctrl-C.
    """
    began = time.perf_counter()
    with RunFolder.kept_if_done(out, {"probe": asdict(options)}) as folder:
        material = load_material(options.data, options.image_size, options.model, options.interpolate)
        with Workers(options.threads) as workers:
            metrics = _probe(options, material, workers, folder.path, say)
        metrics["seconds"] = round(time.perf_counter() - began, 2)
        write_json(folder.path / METRICS, metrics)
    return metrics


def _probe(
    options: ProbeOptions, material: ImageMaterial, workers: Workers, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    parts, encoder = material
    train = [parts.train.take(rows_for(parts, options.labels_per_class, seed)) for seed in options.seeds]
    count, held = len(train[0].pixels), len(parts.heldout.pixels)
    say(f"{parts.name}: {count:,} labelled images, {held:,} held out; {len(parts.classes)} classes")
    model = encoder.model(0).to(options.device)
    scores: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in NAMES} for kind in KINDS}
    for seed, images in zip(options.seeds, train, strict=True):
        judged = judge(material, model, images, seed, workers)
        for name, (linear, neighbours) in judged.items():
            scores["linear"][name].append(linear)
            scores["neighbours"][name].append(neighbours)
    draw_map(material, model, workers, out / MAP, say)
    draw_attention(model, material, out / ATTENTION)
    commonest = majority(classes_of(train[0]).tolist())
    return {
        "accuracy": scores,
        "majority_accuracy": float((classes_of(parts.heldout) == commonest).mean()),
        "classes": list(parts.classes),
        "labelled_images": count,
        "heldout_images": held,
        "seeds": list(options.seeds),
    }


def judge(
    material: ImageMaterial, model: ViTModel, train: Images, seed: int, workers: Workers
) -> dict[str, tuple[float, float]]:
    """Held-out accuracy of the linear probe and of nearest neighbours, on each of NAMES; `seed` draws the untrained."""
    parts, encoder = material
    untrained = encoder.model(seed, from_scratch=True).to(model.device)
    made: list[Callable[[Images], Array]] = [
        lambda images: encode(model, images, encoder.scale, workers).both,
        lambda images: encode(untrained, images, encoder.scale, workers).both,
        flat,
    ]
    targets, truth, classes = classes_of(train), classes_of(parts.heldout), len(parts.classes)
    found = {}
    for name, features in zip(NAMES, made, strict=True):
        known, asked = features(train), features(parts.heldout)
        linear = LinearProbe(classes).fit(known, targets).predict(asked)
        votes = nearest_neighbours(known, targets, asked, classes, workers)
        found[name] = (float((linear.argmax(axis=1) == truth).mean()), float((votes.argmax(axis=1) == truth).mean()))
    return found


def draw_map(
    material: ImageMaterial, model: ViTModel, workers: Workers, path: Path, say: Callable[[str], None]
) -> None:
    """Draw held-out images as points: principal components, and t-SNE where scikit-learn is installed."""
    from minissl.plots.feature_map import plot_feature_map

    parts = material.parts
    count = len(parts.heldout.pixels)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:MAPPED])
    images = parts.heldout.take(rows)
    features = encode(model, images, material.encoder.scale, workers).both
    points, share = principal_components(features, 2)
    panels = {f"PCA: {share:.0%} of the variance": points}
    try:
        panels["t-SNE: neighbours stay together, distances mean little"] = _tsne(features)
    except ImportError:
        say(f"{path.name}: PCA alone; t-SNE comes with scikit-learn (pip install 'minissl[data]')")
    title = f"{parts.name}: features of {len(rows):,} held-out images, coloured by class"
    plot_feature_map(panels, classes_of(images), parts.classes, title, path)


def _tsne(features: Array) -> Array:
    """Two coordinates in which near rows stay near (van der Maaten and Hinton 2008), by scikit-learn."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    points: Array = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return points


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result as a table, each number beside its landmarks."""
    width = max(map(len, NAMES))
    lines = [f"{'held-out accuracy':<{width}}  {'linear probe':>14}  {'20 neighbours':>14}"]
    for name in NAMES:
        told = [_told(metrics["accuracy"][kind][name]) for kind in KINDS]
        lines.append(f"{name:<{width}}  " + "  ".join(f"{text:>14}" for text in told))
    lines.append(f"{'majority':<{width}}  {metrics['majority_accuracy']:>14.1%}")
    return "\n".join([*lines, f"{metrics['seconds']:.0f} s; everything is in {folder}"])


def _told(scores: list[float]) -> str:
    return f"{np.mean(scores):.1%}" + (f" ± {np.std(scores, ddof=1):.1%}" if len(scores) > 1 else "")
