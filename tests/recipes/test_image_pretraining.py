"""A run on images: what it leaves, what its numbers mean, that a seed fixes it, and that it goes on after a stop."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from minissl import ViTForMaskedImageModeling, ViTMAEForPreTraining
from minissl.cli import main
from minissl.errors import InputError
from minissl.ops.patches import patchify_forward
from minissl.pretext.patches import hide_patches
from minissl.recipes import image_pretraining as recipe
from minissl.recipes.image_landmarks import Target, landmarks, mean_image
from minissl.recipes.image_pretraining import ImagePretrainOptions, evaluate, pretrain_images, report, resume
from minissl.recipes.image_tasks import FieldTask, ImageTask, make_image_task
from minissl.training import Trainer
from minissl.vision import PixelScale

FILES = ["config.json", "log.jsonl", "loss.png", "metrics.json", "model.safetensors", "preprocessor_config.json"]
FILES += ["reconstruction.png", "run.json"]
QUICK = {"preset": "nano", "steps": 6, "batch_size": 4, "threads": 1, "save_every": 2}


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Whole runs in a moment: few held-out images, no pictures, and a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "HELDOUT_IMAGES", 32)
    monkeypatch.setattr(recipe, "CURVE_BATCHES", 1)
    monkeypatch.setattr("minissl.recipes.image_tasks.HELDOUT_BATCH", 16)
    monkeypatch.setattr("minissl.recipes.image_tasks.SAMPLE", 100)
    monkeypatch.setattr("minissl.plots.loss.plot_image_losses", lambda *_: None)
    monkeypatch.setattr("minissl.plots.reconstruction.plot_reconstruction", lambda *_: None)


@pytest.fixture
def clothes(tmp_path):
    """A set in MNIST's format, of 16 × 24 pixels: 60 training images and 24 held out, left and right not alike."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 24)):
        pixels = rng.integers(0, 30, (n, 16, 24), np.uint8) + np.arange(24, dtype=np.uint8) * rng.integers(
            5, 10, (n, 1, 1), np.uint8
        )
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    return folder


def write_idx(path, array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def options(**chosen):
    return ImagePretrainOptions.for_data(**{"data": "gaussian-field", **QUICK, **chosen})


def silent(text):
    pass


def model_bytes(run):
    return (Path(run) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("objective", ["mae", "simmim"])
def test_everything_that_a_run_leaves(tmp_path, clothes, objective, monkeypatch):
    """With its pictures."""
    monkeypatch.setattr(recipe, "HELDOUT_IMAGES", 20)
    run, said = tmp_path / "run", []
    metrics = pretrain_images(options(objective=objective, data=str(clothes)), run, said.append)
    assert sorted(os.listdir(run)) == FILES
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["heldout_images"] == 20
    assert metrics["steps"] == 6
    assert metrics["floor"] is None
    assert metrics["pixel_loss"] is None
    assert metrics["ratio"] == metrics["loss"] / metrics["mean_image"]
    assert metrics["images_per_second"] > 0
    assert metrics["seconds_waited_for_images"] >= 0
    for name in ("loss.png", "reconstruction.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert {objective, f"heldout_{objective}_loss", "grad_norm", "lr"} < set(log[0])
    assert "train 60 images, shifted and mirrored, held out 24; 16 × 24 pixels, grey" in said[0]
    middle = "mean" if objective == "mae" else "median"
    assert f"training {middle} image {metrics['mean_image']:.4f}" in said[0]
    scale = PixelScale.load(run)
    assert scale.rescale == 1 / 255
    config = json.loads((run / "config.json").read_text())
    assert config["image_size"] == [16, 24]
    assert config["model_type"] == ("vit_mae" if objective == "mae" else "vit")


def test_the_metrics_are_those_of_the_saved_model(few, clothes):
    for objective, model_class in (("mae", ViTMAEForPreTraining), ("simmim", ViTForMaskedImageModeling)):
        chosen = options(objective=objective, data=str(clothes))
        metrics = pretrain_images(chosen, Path(objective), silent)
        model = model_class.from_pretrained(objective)
        heldout = make_image_task(chosen.task).heldout(32)
        losses = [float(model(**batch).loss) for batch in heldout]  # every image hides as many patches
        sizes = [len(batch["pixel_values"]) for batch in heldout]
        assert metrics["loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)


def test_landmarks_by_hand(few, clothes):
    """One patch after the other, in plain Python, from the files' bytes."""
    task = make_image_task(options(data=str(clothes)).task)
    heldout = task.heldout(32)
    train = np.frombuffer((clothes / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(60, 16, 24)
    inputs = (train / 255 - task.scale.mean[0]) / task.scale.std[0]
    errors = {name: [] for name in ("mean image", "own mean", "median image", "own median")}
    for batch in heldout:
        mask = hide_patches(batch["noise"], 0.75).mask
        for image, hidden in zip(batch["pixel_values"][:, 0].astype(float), mask, strict=True):
            for number in np.flatnonzero(hidden):
                rows, columns = (slice(4 * i, 4 * i + 4) for i in divmod(number, 6))
                truth, places = image[rows, columns], inputs[:, rows, columns]
                errors["mean image"].append(((truth - places.mean(axis=0)) ** 2).mean())
                errors["own mean"].append(truth.var())
                errors["median image"].append(np.abs(truth - np.median(places, axis=0)).mean())
                errors["own median"].append(np.abs(truth - np.median(truth)).mean())
    by_hand = {name: pytest.approx(np.mean(found), rel=1e-5) for name, found in errors.items()}
    found = landmarks(task, Target("mae", 4, False), heldout)
    assert found == (by_hand["mean image"], by_hand["own mean"], None)
    absolute = Target("simmim", 4, False)
    images = mean_image(task, absolute)
    np.testing.assert_allclose(images, patchify_forward(np.median(inputs, axis=0)[None], 4)[0], rtol=1e-5, atol=1e-6)
    masked = [
        {"pixel_values": b["pixel_values"], "bool_masked_pos": hide_patches(b["noise"], 0.75).mask} for b in heldout
    ]
    simmim = make_image_task(options(objective="simmim", data=str(clothes)).task)
    assert landmarks(simmim, absolute, masked) == (by_hand["median image"], by_hand["own median"], None)


def test_of_normalised_patches_the_own_mean_is_nothing(few, clothes):
    """Σ y² = P²C - 1 for each patch that is not flat, so that predicting 0 has the error 15/16."""
    task = make_image_task(options(data=str(clothes), norm_pix=True).task)
    found = landmarks(task, Target("mae", 4, True), task.heldout(32))
    assert found.patch_mean == pytest.approx(15 / 16, rel=1e-3)
    assert found.floor is None
    assert landmarks(make_image_task(options().task), Target("mae", 4, True), options_heldout()).floor is None


def options_heldout():
    return make_image_task(options().task).heldout(32)


def test_a_field_has_its_exact_floor(few):
    for objective, floor in (("mae", 0.43), ("simmim", 0.46)):
        metrics = pretrain_images(options(objective=objective), Path(objective), silent)
        assert metrics["floor"] == pytest.approx(floor, abs=0.02)
        assert metrics["floor"] < metrics["mean_image"] < 1.2
        assert metrics["floor"] < metrics["loss"]
        assert "× the exact floor" in report(metrics, Path("x"))


def test_the_floor_is_what_the_exact_answer_reaches(few):
    """The floor, the landmarks and a model's error are one quantity: the conditional mean, scored as a model is."""
    for objective in ("mae", "simmim"):
        chosen = options(objective=objective)
        task = make_image_task(chosen.task)
        heldout = task.heldout(600)
        total = count = 0.0
        for batch in heldout:
            best, hidden = chosen.target.patches(task.best(batch)), chosen.task.hidden(batch)
            total += chosen.target.error(best, chosen.target.patches(batch["pixel_values"]), hidden)
            count += hidden.sum()
        assert total / count == pytest.approx(task.floor(heldout), rel=0.05)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_evaluation_does_not_depend_on_how_images_are_batched_or_threaded(few, norm_pix):
    chosen = options(norm_pix=norm_pix)
    task = make_image_task(chosen.task)
    model = recipe.make_model(chosen, task.shape)
    whole = task.heldout(32)
    sevens = [{name: array[i : i + 7] for name, array in batch.items()} for batch in whole for i in range(0, 16, 7)]
    found = []
    for threads, batches in ((1, whole), (2, whole), (1, sevens)):
        trainer = Trainer(model, options(threads=threads).training())
        metrics = evaluate(model, task, chosen.target, batches, trainer)
        found.append([value for value in metrics.values() if value is not None])
        trainer.close()
    assert len(found[0]) == 1 + norm_pix
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx(found[2], rel=1e-6)


def test_the_raw_error_of_normalised_patches(few):
    """A model that predicts 0 paints each patch in its own mean, given which it has that landmark's error."""
    chosen = options(norm_pix=True)
    task = make_image_task(chosen.task)
    heldout = task.heldout(32)
    model = recipe.make_model(chosen, task.shape)
    model.decoder.decoder_pred.weight.data[...] = 0
    trainer = Trainer(model, chosen.training())
    found = evaluate(model, task, chosen.target, heldout, trainer)
    trainer.close()
    marks = landmarks(task, Target("mae", 4, False), heldout)
    assert found["pixel_loss"] == pytest.approx(marks.patch_mean, rel=1e-5)
    assert found["loss"] == pytest.approx(15 / 16, rel=1e-3)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_nothing_of_the_hidden_truth_gets_into_the_picture(few, monkeypatch, norm_pix):
    painted = []
    monkeypatch.setattr(
        "minissl.plots.reconstruction.plot_reconstruction",
        lambda images, hidden, rows, caption, path: painted.append((images, rows["reconstructed"], caption)),
    )
    chosen = options(norm_pix=norm_pix)
    pretrain_images(chosen, Path("a"), silent)
    heldout = FieldTask.heldout

    def another_truth(task, most):
        batches = heldout(task, most)
        for batch in batches:
            hidden = chosen.task.hidden(batch).reshape(-1, 1, 4, 4).repeat(4, axis=2).repeat(4, axis=3)
            batch["pixel_values"] = np.where(hidden, 3 - batch["pixel_values"], batch["pixel_values"])
        return batches

    monkeypatch.setattr(FieldTask, "heldout", another_truth)
    pretrain_images(chosen, Path("b"), silent)
    assert (painted[0][0] != painted[1][0]).any()
    np.testing.assert_array_equal(painted[0][1], painted[1][1])
    assert "visible patches are pasted" in painted[0][2]
    assert ("visible patches, not its own" in painted[0][2]) == norm_pix


def test_one_seed_fixes_everything_and_another_changes_it(few, clothes):
    for data in ("gaussian-field", str(clothes)):
        names = [Path(f"{Path(data).name}-{i}") for i in range(3)]
        for name, seed in zip(names, (5, 5, 6), strict=True):
            pretrain_images(options(data=data, seed=seed, threads=2), name, silent)
        assert model_bytes(names[0]) == model_bytes(names[1])
        assert (names[0] / "log.jsonl").read_bytes() == (names[1] / "log.jsonl").read_bytes()
        assert model_bytes(names[0]) != model_bytes(names[2])


@pytest.mark.parametrize(
    "chosen",
    [
        {"mask_ratio": 0.5}, {"norm_pix": True}, {"augment": False}, {"patch_size": 2}, {"learning_rate": 3e-3},
        {"warmup": 0.9}, {"batch_size": 5}, {"preset": "tiny"}, {"objective": "simmim"}, {"steps": 7},
    ],
)  # fmt: skip
def test_every_option_has_an_effect(few, clothes, chosen):
    pretrain_images(options(data=str(clothes)), Path("plain"), silent)
    pretrain_images(options(data=str(clothes), **chosen), Path("chosen"), silent)
    assert model_bytes("plain") != model_bytes("chosen")


def test_what_is_hidden_does_not_depend_on_the_threads(few, clothes):
    for threads in (1, 3):
        pretrain_images(options(data=str(clothes), threads=threads), Path(str(threads)), silent)
    losses = [
        [json.loads(line)["mae"] for line in Path(name, "log.jsonl").read_text().splitlines()] for name in ("1", "3")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_characters_are_not_mirrored(few, clothes):
    assert "shifted and mirrored" in make_image_task(options(data=str(clothes)).task).summary
    clothes.rename("letters")  # MNIST's classes are its digits
    summary = make_image_task(options(data="letters").task).summary
    assert "shifted" in summary
    assert "mirrored" not in summary
    assert "shifted" not in make_image_task(options(data="letters", augment=False).task).summary


@pytest.mark.parametrize("objective", ["mae", "simmim"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(few, clothes, monkeypatch, objective):
    """Stopped between checkpoints, as by a kill; `minissl pretrain --resume` finds out what kind of run it is."""
    for data, task_class in ((str(clothes), ImageTask), ("gaussian-field", FieldTask)):
        whole, cut = (Path(f"{task_class.__name__}-{name}") for name in ("whole", "cut"))
        chosen = options(objective=objective, data=data, threads=2)
        pretrain_images(chosen, whole, silent)
        batch = task_class.batch

        def fail(task, step, batch=batch):
            if step == 6:
                raise KeyboardInterrupt
            return batch(task, step)

        monkeypatch.setattr(task_class, "batch", fail)
        with pytest.raises(InputError, match="interrupted; go on with: minissl pretrain --resume"):
            pretrain_images(chosen, cut, silent)
        monkeypatch.setattr(task_class, "batch", batch)
        assert (cut / "checkpoint.safetensors").exists()
        assert main(["pretrain", "--resume", str(cut)]) == 0
        assert model_bytes(cut) == model_bytes(whole)
        assert (cut / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
        with pytest.raises(InputError, match="this run is complete"):
            resume(cut, silent)


def test_resume_refuses_what_is_not_the_run_that_it_was(few, clothes, capsys):
    pretrain_images(options(data=str(clothes)), Path("run"), silent)
    Path("run/metrics.json").unlink()
    settings = json.loads(Path("run/run.json").read_text())
    for wrong in (
        {"colour": "red"},
        {"steps": "many"},
        {"steps": -1},
        {"seed": 2.5},
        {"norm_pix": 1},
        {"objective": "x"},
    ):
        Path("run/run.json").write_text(json.dumps(settings | {"options": settings["options"] | wrong}))
        assert main(["pretrain", "--resume", "run"]) == 2
    Path("run/run.json").write_text(json.dumps(settings))
    labels = clothes / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    capsys.readouterr()
    assert main(["pretrain", "--resume", "run"]) == 2
    assert "the data has changed since this run began" in capsys.readouterr().err
    assert main(["pretrain", "mae", "--resume", "run", "--steps", "9"]) == 2
    assert "give no other option beside it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rate", "steps", "said"),
    [
        ("1e30", "4", "step 2: the loss or the gradient is no longer finite (mae"),
        ("1e30", "1", "after the last step, the held-out loss is not finite"),
    ],
)
def test_a_learning_rate_that_is_far_too_high(few, capsys, rate, steps, said):
    base = "pretrain mae --data gaussian-field --preset nano --batch-size 4 --threads 2 --save-every 1 --out run"
    assert main([*base.split(), "--learning-rate", rate, "--steps", steps]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert line.endswith("in run; the usual slip is a learning rate that is too high")
    assert not Path("run/metrics.json").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mae --data missing", "o such file or"),
        ("mae --data gaussian-field --patch-size 5", "16 × 16 pixels do not divide into patches of 5 × 5"),
        ("mae --data gaussian-field --patch-size 0", "--patch-size 0: expected"),
        ("mae --data gaussian-field --mask-ratio 75", "--mask-ratio 75.0: expected the share"),
        ("mae --data gaussian-field --mask-ratio 0.99", "none is left to see"),
        ("mae --data gaussian-field --mask-ratio nan", "--mask-ratio nan: expected the share"),
        ("mae --data gaussian-field --patch-size 16", "none is left to see"),
        ("mae --data gaussian-field --patch-size 1 --norm-pix", "a patch of one number has no variance"),
        ("mae --data gaussian-field --image-size 32", "leave out --image-size and --no-augment"),
        ("mae --data gaussian-field --preset huge", "--preset 'huge': expected one of nano, tiny, small, base"),
        ("mae --data gaussian-field --steps 0", "--steps 0: expected 1 or more"),
        ("mae --data gaussian-field --out=", "--out ''"),
        ("mae --learning-rate fast", "invalid float value: 'fast'"),
        ("simmim --norm-pix", "--norm-pix True: expected only beside mae"),
        ("mae --seq-len 9", "unrecognized arguments: --seq-len 9"),
        ("--seq-len 9 mae", "unrecognized arguments: mae"),
        ("maee", "unrecognized arguments: maee"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(few, tmp_path, capsys, wrong, said):
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["pretrain", *wrong.split()]))  # argparse exits by itself
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("minissl: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_defaults_suit_the_objective_and_the_data():
    assert ImagePretrainOptions.for_data(objective="mae").mask_ratio == 0.75
    assert ImagePretrainOptions.for_data(objective="simmim").mask_ratio == 0.6
    assert ImagePretrainOptions.for_data(objective="simmim", mask_ratio=0.5).mask_ratio == 0.5
    assert ImagePretrainOptions.for_data(data="digits").patch_size == 2
    assert ImagePretrainOptions.for_data(data="digits", patch_size=4).patch_size == 4


def test_the_report_puts_each_number_beside_its_landmark():
    metrics = {
        "objective": "mae", "loss": 0.25, "mean_image": 0.5, "ratio": 0.5, "patch_mean": 0.1, "floor": 0.2,
        "pixel_loss": None, "images_per_second": 1234.5, "seconds": 61.2, "steps": 9, "peak_memory_mb": 200.4,
    }  # fmt: skip
    text = report(metrics, Path("runs/x"))
    for part in (
        "squared error 0.2500",
        "0.500 × the training mean image's (0.5000)",
        "true patch mean 0.1000",
        "1.250 × the",
    ):
        assert part in text
    assert "1,234 images/s" in text
    assert text.endswith("61 s, 200 MB at most; everything is in runs/x")
    bare = report({**metrics, "floor": None, "objective": "simmim", "peak_memory_mb": None}, Path("runs/x"))
    assert "absolute error" in bare
    assert "floor" not in bare
    assert "MB" not in bare
    normalised = report({**metrics, "floor": None, "pixel_loss": 0.05, "pixel_patch_mean": 0.07}, Path("runs/x"))
    assert "of normalised patches" in normalised
    assert "given its true mean and spread: 0.0500 (its mean alone 0.0700); not comparable" in normalised


def test_digits(few):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    metrics = pretrain_images(options(data="digits", patch_size=2), Path("run"), silent)
    assert metrics["mean_image"] < 1
