"""The commands: parse, call, print. Exit 0: done; 1: a check failed; 2: wrong use, said in one line."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from minissl.backend import require_device
from minissl.errors import InputError
from minissl.workers import launched, rank


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without the letter "≤" shows "?"
        sys.stdout.reconfigure(errors="replace")
    arguments = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    first = rank() == 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"minissl: {message}", file=sys.stderr) if first else None
            status = int(arguments.run(arguments)) if launched() == 1 else _run_as_one_of_several(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has gone, as in `minissl info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        return 2
    except InputError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "interrupted"
    except OSError as error:
        message = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
    except MemoryError as error:
        message = f"not enough memory ({error}); a smaller --batch-size, --seq-len or --preset needs less"
    if first:
        print(f"minissl: {message}", file=sys.stderr)
    return 2


def _joined(argv: list[str]) -> list[str]:
    """The two words of `pretrain mae` as one: a command beside `pretrain`, with options of its own."""
    return [" ".join(argv[:2]), *argv[2:]] if " ".join(argv[:2]) in IMAGE_COMMANDS else argv


def _run_as_one_of_several(a: argparse.Namespace) -> int:
    """Under mpirun: the first process speaks for all."""
    from minissl.training.processes import find_processes, none_is_left

    if a.run not in (_pretrain, _pretrain_images):
        raise InputError(f"started as {launched()} processes; only minissl pretrain shares its work among several")
    with none_is_left(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
        if getattr(a, "device", None) == "cuda":
            find_processes().take_gpu()
        return int(a.run(a))


def _pretrain(a: argparse.Namespace) -> int:
    from minissl.recipes.pretrain import PretrainOptions, next_folder, pretrain, report

    chosen = _chosen_for_run(a)
    if a.resume is not None:
        return _resume(a, chosen)
    own_ops = chosen.pop("own_ops", None)
    if "data" in chosen:
        chosen["data"] = "\n".join(chosen["data"])
    options = PretrainOptions.for_data(**chosen)
    folder = Path(a.out) if a.out else next_folder(options.data)
    if own_ops and len(own_ops) > 1:
        raise InputError(f"--with is given {len(own_ops)} times; put all your pairs into one file")
    return _reported(report, pretrain(options, folder, print, Path(own_ops[0]) if own_ops else None), folder)


def _pretrain_images(a: argparse.Namespace) -> int:
    from minissl.recipes.image_pretraining import ImagePretrainOptions, pretrain_images, report
    from minissl.recipes.pretrain import next_folder

    chosen = _chosen_for_run(a)
    if a.resume is not None:
        del chosen["objective"]  # the run's own settings say it
        return _resume(a, chosen)
    options = ImagePretrainOptions.for_data(**chosen)
    folder = Path(a.out) if a.out else next_folder(options.data)
    return _reported(report, pretrain_images(options, folder, print), folder)


def _chosen_for_run(a: argparse.Namespace) -> dict[str, Any]:
    """The options of a pre-training run that were given, without those that say where and how to start it."""
    if a.out == "":
        raise InputError("--out '': expected the name of the run's new folder")
    return {name: value for name, value in vars(a).items() if name not in ("run", "out", "resume")}


def _resume(a: argparse.Namespace, chosen: dict[str, Any]) -> int:
    from minissl.recipes import image_pretraining, pretrain

    if chosen or a.out:
        raise InputError("--resume goes on with a run's own settings; give no other option beside it")
    folder = Path(a.resume)
    recipe = image_pretraining if image_pretraining.is_image_run(folder) else pretrain
    return _reported(recipe.report, recipe.resume(folder, print), folder)


def _reported(report: Callable[[dict[str, Any], Path], str], metrics: dict[str, Any], folder: Path) -> int:
    """Print the report of a run; of several processes the first does."""
    if rank() == 0:
        print(report(metrics, folder))
    return 0


def _fill(a: argparse.Namespace) -> int:
    from minissl.recipes.fill import fill

    for number, guesses in enumerate(fill(a.folder, a.text, a.best, a.device), start=1):
        print(f"[MASK] {number}: " + ", ".join(f"{g.word} {g.probability:.1%}" for g in guesses))
    return 0


def _finetune_sentiment(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.pretrain import next_folder
    from minissl.recipes.sentiment import FROZEN_RATE, SentimentOptions, report, sentiment

    chosen = _chosen(a, "run", "out")
    if chosen.get("frozen"):
        chosen.setdefault("learning_rate", FROZEN_RATE)
    options, training = _split(chosen, SentimentOptions, FinetuneOptions)
    folder = Path(a.out) if a.out else next_folder("sentiment")
    metrics = sentiment(options, training, folder, print)
    print(report(metrics, folder))
    return 0


def _finetune_qa(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.pretrain import next_folder
    from minissl.recipes.question_answering import AnsweringOptions, answer_questions, report

    options, training = _split(_chosen(a, "run", "out"), AnsweringOptions, FinetuneOptions)
    folder = Path(a.out) if a.out else next_folder("qa")
    print(report(answer_questions(options, training, folder, print), folder))
    return 0


def _finetune_tasks(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.pretrain import next_folder
    from minissl.recipes.several_tasks import TasksOptions, report, several_tasks

    options, training = _split(_chosen(a, "run", "out"), TasksOptions, FinetuneOptions)
    folder = Path(a.out) if a.out else next_folder("tasks")
    print(report(several_tasks(options, training, folder, print), folder))
    return 0


def _label_efficiency(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.label_efficiency import NUMBERS, PICTURE, EfficiencyOptions, label_efficiency

    options, training = _split(_chosen(a, "run", "out"), EfficiencyOptions, FinetuneOptions)
    out = Path(a.out or "figures")
    label_efficiency(options, training, out, print)
    print(f"{out / PICTURE}, {out / NUMBERS}")
    return 0


def _finetune_image(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.image_finetuning import FROZEN_RATE, TRAINING, ImageOptions, finetune_image, report
    from minissl.recipes.pretrain import next_folder

    chosen = _chosen(a, "run", "out")
    if chosen.get("frozen"):
        chosen.setdefault("learning_rate", FROZEN_RATE)
    options, training = _split(TRAINING | chosen, ImageOptions, FinetuneOptions)
    folder = Path(a.out) if a.out else next_folder("image")
    print(report(finetune_image(options, training, folder, print), folder))
    return 0


def _image_label_efficiency(a: argparse.Namespace) -> int:
    from minissl.finetuning.loop import FinetuneOptions
    from minissl.recipes.image_finetuning import TRAINING
    from minissl.recipes.image_label_efficiency import NUMBERS, PICTURE, ImageEfficiencyOptions, image_label_efficiency

    options, training = _split(TRAINING | _chosen(a, "run", "out"), ImageEfficiencyOptions, FinetuneOptions)
    out = Path(a.out or "figures")
    image_label_efficiency(options, training, out, print)
    print(f"{out / PICTURE}, {out / NUMBERS}")
    return 0


def _probe(a: argparse.Namespace) -> int:
    from minissl.recipes.pretrain import next_folder
    from minissl.recipes.probe import ProbeOptions, probe, report

    (options,) = _split(_chosen(a, "run", "out"), ProbeOptions)
    folder = Path(a.out) if a.out else next_folder("probe")
    print(report(probe(options, folder, print), folder))
    return 0


def _chosen(a: argparse.Namespace, *left_out: str) -> dict[str, Any]:
    """What was given on the command line; of several values, a tuple."""
    given = {name: value for name, value in vars(a).items() if name not in left_out}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _split(chosen: dict[str, Any], *kinds: Any) -> list[Any]:
    """Make an object of each kind from the values that are named as its fields."""
    return [kind(**{f.name: chosen[f.name] for f in fields(kind) if f.name in chosen}) for kind in kinds]


def _ask(a: argparse.Namespace) -> int:
    from minissl.recipes.answers import ask, read_passage

    passage = a.passage if a.file is None else read_passage(a.file)
    for probability, answer in ask(a.folder, a.question, passage, a.best, a.device):
        print(f"{probability:6.1%}  {answer}")
    return 0


def _gradcheck(a: argparse.Namespace) -> int:
    from minissl.recipes.gradcheck import check_all, check_random

    return 0 if (check_all(print) if a.random is None else check_random(a.random, a.seed, print)) else 1


def _info(a: argparse.Namespace) -> int:
    from minissl.recipes.info import describe

    print(describe())
    return 0


def _bench(a: argparse.Namespace) -> int:
    say = partial(print, flush=True)
    threads, *more = a.threads
    if a.device == "cuda":
        from minissl.bench import gpu

        if a.all or a.mae or a.inference or a.growth or more or threads:
            raise InputError("--device cuda compares BERT's training step; leave out --threads and what else to time")
        gpu.record(a.preset or (), a.rows, a.precision or "float32", a.rounds, a.out, say)
        return 0
    require_device(a.device)
    if a.rows is not None or a.precision is not None:
        raise InputError("--rows and --precision are for --device cuda")
    if a.all:
        from minissl.bench import everything

        everything.record(a.preset, a.rounds, a.threads, a.out, say)
        return 0
    if more:
        return _bench_by_threads(a, say)
    if a.growth and a.preset:
        raise InputError("--growth has sizes of its own; leave out --preset")
    if a.mae or a.inference:
        from minissl.bench import inference, mae
        from minissl.bench.turns import check_options
        from minissl.models.bert import PRESETS

        if a.out is not None:
            raise InputError(
                "--out keeps the comparison of BERT's training step; leave it out beside --mae and --inference"
            )
        presets = a.preset or ["fashion" if a.mae else "tiny"]
        for preset in presets:
            check_options(preset, mae.PRESETS if a.mae else PRESETS, a.rounds, threads)
        for preset in presets:
            say((mae if a.mae else inference).compare(preset, a.rounds, threads))
        return 0
    if a.growth:
        from minissl.bench import growth

        growth.record(a.rounds, threads, a.out, say)
        return 0
    from minissl.bench.record import record

    record(a.preset or ["tiny"], a.rounds, threads, a.out, say)
    return 0


def _bench_by_threads(a: argparse.Namespace, say: Callable[[str], None]) -> int:
    from minissl.bench import scaling

    if a.mae or a.growth or a.out is not None:
        raise InputError("--threads with several numbers compares BERT's step and --inference; leave the rest out")
    for preset in a.preset or ["tiny"]:
        scaling.check_threads(preset, a.threads, a.rounds)
    for preset in a.preset or ["tiny"]:
        if not a.inference:
            say(scaling.shown(scaling.measure_step(preset, a.threads, a.rounds)))
        say(scaling.shown(scaling.measure_evaluation(preset, a.threads, a.rounds)))
    return 0


def _exercise(a: argparse.Namespace) -> int:
    from minissl.exercises import commands

    say = partial(print, flush=True)
    if a.action == "list":
        return commands.list_exercises(a.folder, say)
    if a.action == "grade":
        return commands.grade(a.folder, say, a.json, a.gradescope)
    if a.action == "notebooks":
        from minissl.exercises.notebooks import export_notebooks

        print("\n".join(str(path) for path in export_notebooks(a.folder)))
        return 0
    return int(getattr(commands, a.action)(a.name, a.folder, say))


def _museum(a: argparse.Namespace) -> int:
    from minissl.museum import commands

    if a.action == "list":
        return commands.list_exhibits(print)
    if a.action == "check":
        return commands.check(print)
    if a.action == "show":
        return commands.show(a.name, print)
    return commands.race(a.name, Path(a.out), print, a.steps, a.seed)


def _figures(a: argparse.Namespace) -> int:
    from minissl.recipes.figures import listing, rebuild

    if a.list:
        print(listing())
    else:
        rebuild(a.names, Path(a.out), print)
    return 0


class _Parser(argparse.ArgumentParser):
    """Says in one line what was wrong, like every other refusal."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"minissl: {message}; {self.prog} --help tells more\n")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, or several with commas such as 1,2") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="minissl", description="Self-supervised learning with transformers, every gradient written by hand."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str) -> Any:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            argument_default=argparse.SUPPRESS,  # so that what was not given can be told from what was
        )
        added.set_defaults(run=run)
        return added

    p = command("pretrain", _pretrain, "Pre-train a BERT on a text.", "minissl pretrain --data my_books/ --steps 5000")
    p.add_argument(
        "--data",
        nargs="+",
        metavar="TEXT",
        help="docs (built in; the default), hmm (synthetic), or UTF-8 text files and folders, several if you like; of "
        "a .tsv or .csv of texts and labels, the texts",
    )
    p.add_argument("--preset", help="tiny (the default), mini, small or base")
    p.add_argument("--steps", type=int, help="updates to make")
    p.add_argument("--out", default=None, help="the new folder of the run (default: runs/DATA-1, -2, …)")
    p.add_argument("--resume", default=None, metavar="DIR", help="go on with an interrupted run")
    p.add_argument(
        "--with",
        dest="own_ops",
        action="append",
        metavar="FILE",
        help="a Python file with your own NAME_forward and NAME_backward, to train with in place of minissl's op",
    )
    p.add_argument("--seed", type=int, help="fixes everything that is random (default 0)")
    p.add_argument("--threads", type=int, help="how many share a step (default: one for each core)")
    p.add_argument("--seq-len", type=int, help="tokens in a sequence")
    p.add_argument(
        "--short",
        type=float,
        metavar="SHARE",
        help="share of the steps, at first, with twice the sequences at half the length",
    )
    p.add_argument("--batch-size", type=int, help="sequences in a micro-batch")
    p.add_argument("--accumulate", type=int, help="micro-batches in an update (default 1)")
    p.add_argument("--vocab-size", type=int, help="entries in the vocabulary at most")
    p.add_argument("--learning-rate", type=float, help="its peak, after the warm-up")
    p.add_argument("--warmup", type=float, help="share of the steps over which the learning rate rises")
    p.add_argument("--dropout", type=float, help="share that dropout drops, in hidden states and attention")
    _add_device(p)
    _add_precision(p)
    p.add_argument("--save-every", type=int, help="steps between checkpoints")
    p.add_argument("--whole-word", action="store_true", help="mask whole words")
    p.add_argument("--no-nsp", dest="nsp", action="store_false", help="masked words alone, no next sentence prediction")
    p.add_argument(
        "--no-bias-correction", dest="bias_correction", action="store_false", help="AdamW as BERT's own code had it"
    )

    for name, (summary, ratio) in IMAGE_COMMANDS.items():
        p = command(name, _pretrain_images, summary, f"minissl {name} --data my_images/ --image-size 64 --patch-size 8")
        p.set_defaults(objective=name.split()[1])
        _add_image_pretraining(p, ratio)

    p = command(
        "finetune", _finetune_sentiment, "Put a pre-trained model to work on a task.",
        "minissl finetune sentiment --model runs/docs-1 --data reviews.csv",
    )  # fmt: skip
    _add_finetune_tasks(p)

    p = command(
        "probe", _probe, "What frozen features know: a linear probe and nearest neighbours, beside raw pixels.",
        "minissl probe --model runs/mae-1 --data fashion-mnist/ --labels-per-class 100 --seeds 0 1 2",
    )  # fmt: skip
    _add_labelled_images(p, model_required=True)
    p.add_argument("--labels-per-class", type=int, metavar="N", help="learn from N images of each class alone")
    p.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="one run for each (default: 0)")
    p.add_argument("--threads", type=int, help="how many share the work (default: one for each core)")
    _add_device(p)
    p.add_argument("--out", default=None, help="the folder of the result (default: runs/probe-1, -2, …)")

    p = command("fill", _fill, "Guess masked words.", 'minissl fill runs/docs-1 "Names refer to [MASK]."')
    p.add_argument("folder", help="a run's folder, one that Hugging Face wrote, or a model's name there")
    p.add_argument("text", help="text with [MASK] in place of words")
    p.add_argument("--best", type=int, default=5, help="how many words to show for each mask (default 5)")
    _add_device(p, default="cpu")

    p = command(
        "ask", _ask, "Answer a question from a passage.", 'minissl ask runs/qa-1 "Who came?" --passage "Ada came."'
    )
    p.add_argument("folder", help="a folder of `minissl finetune qa`, or one that Hugging Face wrote")
    p.add_argument("question", help="what to find in the passage")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--passage", metavar="TEXT", help="the passage itself")
    source.add_argument("--file", type=Path, default=None, help="a UTF-8 text file that holds it")
    p.add_argument("--best", type=int, default=3, help="how many answers to show (default 3)")
    _add_device(p, default="cpu")

    p = command("exercise", _exercise, "Exercises that check themselves.", "minissl exercise start")
    _add_exercise_actions(p)

    p = command(
        "museum", _museum, "Wrong implementations: shown, caught, raced.", "minissl museum race attention-mask-inverted"
    )
    _add_museum_actions(p)

    p = command(
        "gradcheck", _gradcheck, "Check every op's and whole models' gradients.", "minissl gradcheck --random 1000"
    )
    p.add_argument("--random", type=int, default=None, metavar="N", help="check N random cases of the ops instead")
    p.add_argument("--seed", type=int, default=0, help="draws the random cases (default 0)")
    command("info", _info, "Show versions, BLAS and its threads, and the GPU or why there is none.", "minissl info")

    p = command(
        "bench",
        _bench,
        "Time a training step, or evaluation, beside Hugging Face on PyTorch (extra: parity).",
        "minissl bench --inference --preset base",
    )
    what = p.add_mutually_exclusive_group()
    what.add_argument("--inference", action="store_true", default=False, help="time evaluation, not a training step")
    what.add_argument("--growth", action="store_true", default=False, help="minissl's own step by T, D and B")
    what.add_argument("--mae", action="store_true", default=False, help="time a masked autoencoder's training step")
    what.add_argument(
        "--all", action="store_true", default=False,
        help="all of these, with memory and the time to import; takes minutes, and --out keeps each part as it ends",
    )  # fmt: skip
    sizes = "tiny (the default), mini, small or base; with --mae fashion (the default), small or base"
    p.add_argument("--preset", nargs="+", default=None, help=sizes)
    p.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="keep the numbers and a picture in this folder"
    )
    p.add_argument("--rounds", type=int, default=20, help="timed runs of each (default 20)")
    _add_device(p, default="cpu")
    p.add_argument("--rows", type=int, default=None, help="with --device cuda: sequences in a batch")
    p.add_argument(
        "--precision",
        default=None,
        help="with --device cuda, of products: float32 (the default), tf32, float16, bfloat16",
    )
    p.add_argument(
        "--threads", type=_whole_numbers, default=[0], metavar="N[,N…]",
        help="threads of each (default: one for each core); 1,2 compares the two, step and evaluation",
    )  # fmt: skip

    p = command("figures", _figures, "Draw the lessons' figures again.", "minissl figures lesson-3-depth --out figures")
    p.add_argument("names", nargs="*", metavar="NAME", default=[], help="which ones (default: all)")
    p.add_argument("--out", default="figures", help="the folder to write to (default: figures)")
    p.add_argument("--list", action="store_true", default=False, help="name every figure and what it shows")
    return parser


IMAGE_COMMANDS = {
    "pretrain mae": ("Pre-train on images: hide patches, and paint them from the visible ones alone.", 0.75),
    "pretrain simmim": ("Pre-train on images: hide patches behind mask tokens, and paint them.", 0.6),
}


def _add_image_pretraining(p: argparse.ArgumentParser, ratio: float) -> None:
    p.add_argument(
        "--data", metavar="IMAGES",
        help="glyphs (built in; the default), digits (scikit-learn's), gaussian-field (synthetic, with its best "
        "possible error), or a folder of images",
    )  # fmt: skip
    p.add_argument("--preset", help="nano, tiny (the default), small or base")
    p.add_argument("--image-size", type=int, metavar="PIXELS", help="resize a folder's images to this side")
    p.add_argument("--patch-size", type=int, metavar="PIXELS", help="the side of a patch (default 4; digits: 2)")
    p.add_argument("--mask-ratio", type=float, metavar="SHARE", help=f"of the patches, hidden (default {ratio})")
    p.add_argument(
        "--norm-pix", action="store_true", help="mae: paint each patch less its own mean and over its own spread"
    )
    p.add_argument("--steps", type=int, help="updates to make")
    p.add_argument("--batch-size", type=int, help="images in an update (default 128)")
    p.add_argument("--learning-rate", type=float, help="its peak, after the warm-up")
    p.add_argument("--warmup", type=float, help="share of the steps over which the learning rate rises")
    p.add_argument(
        "--no-augment", dest="augment", action="store_false", help="images as they are, not shifted or mirrored"
    )
    p.add_argument("--seed", type=int, help="fixes everything that is random (default 0)")
    p.add_argument("--threads", type=int, help="how many share a step (default: one for each core)")
    _add_device(p)
    _add_precision(p)
    p.add_argument("--save-every", type=int, help="steps between checkpoints")
    p.add_argument("--out", default=None, help="the new folder of the run (default: runs/DATA-1, -2, …)")
    p.add_argument("--resume", default=None, metavar="DIR", help="go on with an interrupted run")


def _add_finetune_tasks(parser: argparse.ArgumentParser) -> None:
    tasks = parser.add_subparsers(title="tasks", required=True, metavar="TASK")

    def task(name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str) -> Any:
        added = tasks.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            argument_default=argparse.SUPPRESS,
        )
        added.set_defaults(run=run)
        where = "figures" if name.endswith("label-efficiency") else f"runs/{name}-1, -2, …"
        added.add_argument("--out", default=None, help=f"the folder of the result (default: {where})")
        return added

    p = task(
        "sentiment", _finetune_sentiment, "A class for every text: sentiment, topic, anything with labels.",
        "minissl finetune sentiment --model runs/docs-1 --data reviews.csv --labels 200 --seeds 0 1 2",
    )  # fmt: skip
    _add_labelled_texts(p, "a pre-training run's folder, or one that Hugging Face wrote", required=True)
    p.add_argument("--text-column", metavar="COLUMN", help="the texts' column: its name in the header, or its number")
    p.add_argument("--label-column", metavar="COLUMN", help="the labels' column")
    _add_training(p)
    _add_word_dropout(p)
    p.add_argument("--from-scratch", action="store_true", help="the same architecture and vocabulary, fresh weights")
    p.add_argument("--frozen", action="store_true", help="leave the encoder as it is; its pooler and the head learn")
    p.add_argument("--labels", type=int, metavar="N", help="learn from N labelled texts alone, drawn by the seed")
    p.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="one run for each (default: 0)")

    p = task(
        "qa", _finetune_qa, "Answers to questions about passages, in the format of SQuAD v1.1.",
        "minissl finetune qa --data dev-v1.1.json --span-pretraining 24",
    )  # fmt: skip
    p.add_argument("--data", required=True, help="a file of SQuAD v1.1, JSON or gzipped; its articles are split in two")
    p.add_argument("--model", help="a pre-training run's folder, or one that Hugging Face wrote (default: a new BERT)")
    p.add_argument("--from-scratch", action="store_true", help="the model's sizes and vocabulary, fresh weights")
    p.add_argument(
        "--span-pretraining", type=int, metavar="PASSES",
        help="first learn to find what a sentence of a passage lacks, for so many passes of 200 steps; needs no labels",
    )  # fmt: skip
    p.add_argument(
        "--texts", nargs="+", metavar="TEXT", help="text files or folders for it beside the training passages"
    )
    p.add_argument("--heldout", type=float, metavar="SHARE", help="of the questions, by article (default 0.2)")
    p.add_argument("--length", type=int, help="tokens in a window, question and part of the passage (default 256)")
    p.add_argument("--stride", type=int, help="tokens that neighbouring windows share (default 64)")
    p.add_argument("--longest-answer", type=int, help="tokens in an answer at most (default 30)")
    p.add_argument("--seed", type=int, help="fixes everything that is random but the split (default 0)")
    _add_training(p)

    p = task(
        "tasks", _finetune_tasks, "Several tasks at once: one encoder, a head for each, and each alone beside it.",
        "minissl finetune tasks --model runs/docs-1 --task sentiment=SST2/ --task topic=squad.json.gz",
    )  # fmt: skip
    p.add_argument("--model", required=True, help="a pre-training run's folder, or one that Hugging Face wrote")
    p.add_argument(
        "--task", dest="tasks", action="append", default=[], metavar="NAME=PATH",
        help="a TSV or CSV of texts and labels, a folder with train.tsv, or SQuAD's JSON (which article a question is "
        "of); give two or more",
    )  # fmt: skip
    p.add_argument(
        "--weight", dest="weights", action="append", metavar="NAME=W", help="what a task's loss counts (default 1)"
    )
    p.add_argument("--masked-words", type=float, metavar="W", help="masked words of all the texts too, counting W")
    _add_training(p)
    _add_word_dropout(p)
    p.add_argument("--seed", type=int, help="fixes everything that is random (default 0)")

    p = task(
        "image", _finetune_image, "A class for every image, from labelled images and a pre-trained encoder or none.",
        "minissl finetune image --model runs/mae-1 --data fashion-mnist/ --labels-per-class 100 --seeds 0 1 2",
    )  # fmt: skip
    _add_labelled_images(p)
    _add_image_training(p)
    p.add_argument("--from-scratch", action="store_true", help="the model's sizes, fresh weights")
    p.add_argument("--frozen", action="store_true", help="leave the encoder as it is; a linear head alone learns")
    p.add_argument("--labels-per-class", type=int, metavar="N", help="learn from N images of each class alone")
    p.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="one run for each (default: 0)")

    p = task(
        "label-efficiency", _label_efficiency, "What pre-training is worth: accuracy on few and many labels.",
        "minissl finetune label-efficiency --labels 50 200 1000 --out figures",
    )  # fmt: skip
    _add_labelled_texts(p, "a pre-trained model's folder (default: one is pre-trained first)", required=False)
    _add_training(p)
    p.add_argument("--texts", nargs="+", help="what to pre-train on (default: docs, MINISSL_DATA's texts, the data's)")
    p.add_argument("--steps", type=int, help="updates of the pre-training")
    p.add_argument(
        "--labels", type=int, nargs="+", metavar="N", help="how many labels (default: 50 200 1000); then all"
    )
    p.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="the runs of each (default: 0 1 2)")
    _add_word_dropout(p)

    p = task(
        "image-label-efficiency", _image_label_efficiency,
        "What pre-training on images is worth: accuracy on few and many labels.",
        "minissl finetune image-label-efficiency --model runs/mae-1 --data fashion-mnist/ --labels 10 100",
    )  # fmt: skip
    _add_labelled_images(p, model_required=True)
    _add_image_training(p)
    p.add_argument("--labels", type=int, nargs="+", metavar="N", help="how many of each class (default: 10 30 100)")
    p.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="the runs of each (default: 0 1 2)")


def _add_labelled_texts(p: argparse.ArgumentParser, model: str, *, required: bool) -> None:
    p.add_argument("--model", required=required, help=model)
    p.add_argument(
        "--data",
        help="a TSV or CSV of texts and labels, or a folder with train.tsv and dev.tsv (default: MINISSL_DATA's SST-2)",
    )


def _add_labelled_images(p: argparse.ArgumentParser, *, model_required: bool = False) -> None:
    p.add_argument(
        "--model", required=model_required,
        help="the folder of a masked autoencoder, a SimMIM model or a ViT: a run's, or one that Hugging Face wrote"
        + ("" if model_required else " (default: a new, small ViT)"),
    )  # fmt: skip
    p.add_argument(
        "--data",
        help="glyphs (built in; the default), digits, a folder with MNIST's IDX files, CIFAR-10's binary files, or a "
        "folder or .tar of a folder for each class",
    )
    p.add_argument("--image-size", type=int, metavar="N", help="resize and crop the images of a folder to N × N")
    p.add_argument(
        "--interpolate", action="store_true", help="fit the model's positions to images of another size than its own"
    )


def _add_image_training(p: argparse.ArgumentParser) -> None:
    _add_training(p)
    p.add_argument("--flip", action="store_true", help="mirror one training image in two (not letters and digits)")
    p.add_argument(
        "--crop", type=int, metavar="PIXELS", help="move training images by up to so much (default: side / 14)"
    )


def _add_device(p: argparse.ArgumentParser, default: str = argparse.SUPPRESS) -> None:
    p.add_argument("--device", default=default, help="cpu (the default), or cuda, an NVIDIA GPU (extra: gpu)")


def _add_precision(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--precision",
        help="a GPU's, in matrix products: float32 (the default), tf32, float16 or bfloat16; all else stays float32",
    )


def _add_word_dropout(p: argparse.ArgumentParser) -> None:
    p.add_argument("--word-dropout", type=float, help="share of the words that [MASK] stands for in a training pass")


def _add_training(p: argparse.ArgumentParser) -> None:
    p.add_argument("--epochs", type=int, help="passes over the training data")
    p.add_argument("--batch-size", type=int, help="texts, windows or images in an update")
    p.add_argument("--learning-rate", type=float, help="its peak, after the warm-up")
    p.add_argument("--layer-decay", type=float, metavar="SHARE", help="each layer's rate as a share of the next one's")
    p.add_argument("--weight-decay", type=float, help="AdamW's (default 0.01; for images 0.05)")
    p.add_argument("--warmup", type=float, help="share of the steps over which the learning rate rises")
    p.add_argument("--dropout", type=float, help="share that dropout drops, in hidden states and attention")
    p.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop once N passes were no better on a part of the training data, and keep the best (default: do not)",
    )
    p.add_argument("--threads", type=int, help="how many share a step (default: one for each core)")
    _add_device(p)


MUSEUM_ACTIONS = {
    "list": "Name every exhibit, with what is wrong.",
    "show": "Tell an exhibit's story: the diff, what training shows, what the checker says.",
    "race": "Train an exhibit beside the right one and draw both curves.",
    "check": "Let the checker look at every exhibit.",
}


def _add_museum_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    for action, summary in MUSEUM_ACTIONS.items():
        name = " layer-norm-gain-outside" if action in ("show", "race") else ""
        example = f"example: minissl museum {action}{name}"
        p = actions.add_parser(action, help=summary, description=summary, epilog=example)
        if name:
            p.add_argument("name", help="the exhibit's name, from `minissl museum list`")
        if action == "race":
            p.add_argument("--out", default="runs/museum", help="where the picture goes (default: runs/museum)")
            p.add_argument("--steps", type=int, help="updates to make on each side (default: the exhibit's own)")
            p.add_argument("--seed", type=int, default=0, help="fixes everything that is random (default 0)")


EXERCISE_ACTIONS = {
    "list": "Show the exercises, what is passed, and what comes next.",
    "start": "Put an exercise's file in your folder, by default the next one's.",
    "check": "Check your file, by default that of the current exercise.",
    "hint": "Show one hint more.",
    "reset": "Write a fresh file; the old one is kept as a backup.",
    "solution": "Show the solution of an exercise that you have passed.",
    "watch": "Check again after every save, until Ctrl-C.",
    "grade": "Grade a folder of one student's files, or of students' folders.",
    "notebooks": "Write the exercises as notebooks for nbgrader (FOLDER/source/minissl/).",
}


def _add_exercise_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    for action, summary in EXERCISE_ACTIONS.items():
        folder = " handed_in/" if action in ("grade", "notebooks") else ""
        example = f"example: minissl exercise {action}{folder}"
        p = actions.add_parser(action, help=summary, description=summary, epilog=example)
        if folder:
            p.add_argument("folder", type=Path)
        else:
            where = "your folder (default: this one if it has exercises, else minissl-exercises)"
            p.add_argument("--folder", type=Path, default=None, help=where)
        if action == "grade":
            p.add_argument("--json", action="store_true", help="print JSON instead of a table")
            p.add_argument("--gradescope", type=Path, metavar="FILE", help="write Gradescope's results.json")
        elif action not in ("list", "notebooks"):
            p.add_argument("name", nargs="?", help="softmax, or 5 (default: the current one)")
