"""``verifier vnncomp run CATEGORY_DIR``: run a benchmark category of VNN-COMP, resumably."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.commands.console import say
from verifier.events import Event, Listener, Note, Progress

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.vnncomp.category import Category, Instance
    from verifier.vnncomp.journal import Journal
    from verifier.vnncomp.runner import Executor, Settings


OUT = "journal and reports (by default NAME in this user's folder for data, which is said)"


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import a_folder, add_json, add_quiet, count, engine_names, natural, positive

    top = subparsers.add_parser("vnncomp", description="Benchmark categories of VNN-COMP.")
    actions = top.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "run",
        help="run a category, or go on with it",
        description="Run the instances of CATEGORY_DIR/instances.csv, each in its own process with its own time "
        "limit. Results go to a journal at once: a run that was killed goes on where it was, and no instance "
        "that has a result is run again.",
        epilog="exit status: 0 done, 1 a wrong answer or an invalid counterexample, 2 bad usage or input",
    )
    parser.add_argument("category", type=Path, metavar="CATEGORY_DIR")
    parser.add_argument("--out", type=a_folder, metavar="DIR", help=OUT)
    parser.add_argument("--fresh", action="store_true", help="forget the journal's results and begin again")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="instances at once (1)")
    parser.add_argument("--cluster", action="store_true", help="run on a Ray cluster (pwl-verifier[cluster])")
    parser.add_argument("--address", help="of the Ray cluster (auto)")
    parser.add_argument("--engine", type=engine_names, default="auto", help="as for `verifier verify` (auto)")
    parser.add_argument("--threads", type=count, metavar="N", help="threads of an instance (cores / workers)")
    parser.add_argument("--memory", type=positive, metavar="GIB", help="memory limit of each solver process")
    parser.add_argument("--seed", type=natural, default=0, help="seed of everything random (0)")
    parser.add_argument("--cap", type=positive, metavar="S", help="no instance gets more than this")
    parser.add_argument("--only", metavar="TEXT", help="only instances whose onnx or vnnlib contains this")
    parser.add_argument("--sample", type=count, metavar="N", help="only N instances, evenly spread, always the same")
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)
    report = actions.add_parser("report", help="write the reports from a journal again")
    report.add_argument("category", type=Path, metavar="CATEGORY_DIR")
    report.add_argument("--out", type=a_folder, metavar="DIR", help=OUT)
    add_json(report)
    report.set_defaults(run=run_report)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from verifier.engines.registry import get
    from verifier.errors import EngineError
    from verifier.files import check_folder
    from verifier.vnncomp.category import read_category
    from verifier.vnncomp.journal import Journal
    from verifier.vnncomp.runner import Settings, run_category

    category = read_category(args.category)
    instances = choose(category, args.only, args.sample)
    for name in args.engine.split(","):
        if name != "auto" and not (availability := get(name).availability()).installed:
            raise EngineError(f"engine {name!r} is not installed", fix=availability.detail)
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
    settings = Settings(engine=args.engine, threads=threads, memory=args.memory, seed=args.seed, cap=args.cap)
    out = args.out or check_folder(usual_folder(category))
    file = out / "journal.sqlite"
    if args.fresh:
        for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
            (out / name).unlink(missing_ok=True)
    with Journal(file, category, vars(settings)) as journal:
        done = len(instances) - len(journal.open_instances(instances))
        if not args.quiet:
            what = f"{len(instances)} instances" + (f", {done} of them done before" if done else "")
            say(f"{category.name}: {what}; journal {file}")
        executor = _executor(args, category, settings)
        run_category(category, instances, journal, executor, Live(args.listener))
        return _report(category, journal, out, instances)


def run_report(args: argparse.Namespace) -> Result:
    """Write csv, counterexamples, summary and plot from a journal."""
    from verifier.errors import InputError
    from verifier.vnncomp.category import read_category
    from verifier.vnncomp.journal import Journal

    category = read_category(args.category)
    out = args.out or usual_folder(category)
    if not (out / "journal.sqlite").exists():
        raise InputError("there is no journal", place=str(out), fix="run the category first")
    with Journal(out / "journal.sqlite", category) as journal:
        return _report(category, journal, out, list(category.instances))


def usual_folder(category: Category) -> Path:
    """Where the journal and the reports of a category are, if nothing else is said."""
    from platformdirs import user_data_path

    return user_data_path("pwl-verifier", appauthor=False) / "vnncomp" / category.name


def choose(category: Category, only: str | None, sample: int | None) -> list[Instance]:
    """The instances that ``--only`` and ``--sample`` leave.

    Raises:
        InputError: none is left.
    """
    from verifier.errors import InputError

    instances = [i for i in category.instances if not only or only in i.onnx or only in i.vnnlib]
    if sample is not None and sample < len(instances):
        instances = [instances[k * len(instances) // sample] for k in range(sample)]
    if not instances:
        raise InputError(f"no instance of {category.name} contains {only!r}")
    return instances


def _executor(args: argparse.Namespace, category: Category, settings: Settings) -> Executor:
    from verifier.commands.arguments import refuse
    from verifier.vnncomp.runner import LocalExecutor

    if not args.cluster:
        refuse(args, "without --cluster", "address")
        return LocalExecutor(category, settings, args.workers)
    from verifier.vnncomp.cluster import RayExecutor

    return RayExecutor(category, settings, args.address or "auto")


def _report(category: Category, journal: Journal, out: Path, instances: list[Instance]) -> Result:
    from verifier.commands.result import Result
    from verifier.files import make_folder, write_text
    from verifier.vnncomp import page, summary

    records = journal.records()
    make_folder(out)
    summary.write_csv(out / "results.csv", category, records)
    summary.write_counterexamples(out / "counterexamples", category, records)
    found = summary.summarize(category, records, instances)
    text = summary.in_words(found)
    write_text(out / "summary.txt", text + "\n")
    try:
        summary.cactus(out / "cactus.png", category, records)
    except ImportError:
        say("verifier: no cactus plot: matplotlib is not installed")
    write_text(out / "summary.html", page.category_page(found, records, instances))
    record = {
        "category": category.name,
        "out": out,
        "counts": found.counts,
        "solved": found.solved,
        "instances": found.total,
        "finished": found.finished,
        "seconds": found.seconds,
        "score": found.score,
        "wrong": found.wrong,
        "invalid": found.invalid,
        "new": found.new,
        "missed": found.missed,
    }
    text += f"\n  journal and reports: {out}"
    return Result(text=text, found=record, status=0 if found.is_clean else 1)


class Live:
    """Tells a listener of instances as they start and end, in words."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.counts: dict[str, int] = {}
        self.left: int | None = None

    def __call__(self, event: Event) -> None:
        from verifier.vnncomp.runner import InstanceFinished, InstanceLost, InstanceStarted

        match event:
            case InstanceStarted(instance=instance):
                done = sum(self.counts.values())
                self._tell(Progress, event, stage=_name(instance), done=done, unit="instances", left=self.left)
            case InstanceLost(instance=instance, reason=reason):
                self._tell(Note, event, text=f"lost: {_name(instance)} ({reason})")
            case InstanceFinished(instance=instance, record=record, expected=expected, done=done, total=total):
                self.counts[record.result] = self.counts.get(record.result, 0) + 1
                self.left = total - done
                wrong = record.solved and expected in ("sat", "unsat") and record.result != expected
                bad = f"  !!! WRONG: agreed is {expected}" if wrong else ""
                if record.witness.startswith("INVALID"):
                    bad += f"  !!! {record.witness}"
                so_far = ", ".join(f"{n} {word}" for word, n in sorted(self.counts.items()))
                text = (
                    f"{done:5}/{total} {record.result:8}{record.seconds:8.2f} s  {record.engine:10} "
                    f"{_name(instance)}{bad}  [{so_far}]"
                )
                self._tell(Note, event, text=text)

    def _tell(self, kind: type[Event], event: Event, **words: Any) -> None:
        self.listener(kind(seconds=event.seconds, **words))


def _name(instance: Instance) -> str:
    return f"{Path(instance.onnx).name} {Path(instance.vnnlib).name}"
