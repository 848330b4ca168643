"""The command line: `python -m playground VERB`, one verb a function, sharing the tabs' code.

With --json a verb prints one JSON document on standard output; everything else goes to standard error. Exit code 0,
or 1 with one line.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from playground.data import library
from playground.data.readers import read_file
from playground.data.report import examine
from playground.models import catalog
from playground.runs import queue, run
from playground.stages import launch
from playground.stages.launch import STAGES


def models(args: argparse.Namespace) -> Any:
    """List the models to start from; --fetch brings one here."""
    if args.fetch:
        base = catalog.prepare(args.fetch, show, refresh=True)
        show("")
        return {
            "ref": base.ref,
            "title": base.title,
            "folder": str(base.folder),
            "identity": base.identity,
            "note": base.note,
        }
    return [{"ref": ref, "title": title, "ready": catalog.is_ready(ref)} for title, ref in catalog.choices()]


def settings(args: argparse.Namespace) -> Any:
    """List the settings of a stage: what --set accepts, and what each one does."""
    found = launch.stage(args.stage).Settings
    return [dataclasses.asdict(spec) | {"kind": spec.kind.__name__} for spec in found.specs().values()]


def data(args: argparse.Namespace) -> Any:
    """Check a file (what is kept, dropped and why), or list the stored datasets."""
    if args.action == "list":
        return [
            {
                "name": d.name,
                "kind": d.kind,
                "train": d.train,
                "heldout": d.heldout,
                "sha256": d.sha256,
                "source": d.source,
            }
            for d in library.datasets()
        ]
    if not args.file:
        raise ValueError("data check needs a file.")
    path = Path(args.file)
    if not path.is_file():
        raise ValueError(f"There is no file {args.file}.")
    report = examine(read_file(path, path.name))
    if not report.kept:
        raise ValueError(f"{path.name}: {report.refusal()}")
    return report.as_json() if args.json else "\n".join(report.words())


def train(args: argparse.Namespace) -> Any:
    """Start a run, wait for its end and show its progress. Ctrl-C stops it after the step, with its weights saved."""
    values = _pairs(args.set)
    # Everything typed is checked before a file is stored or a model fetched.
    launch.stage(args.stage).Settings.parse({**launch.preset_settings(args.stage, args.preset), **values})
    source = args.data or (launch.presets(args.stage)[args.preset].get("data") if args.preset else None)
    if not source:
        raise ValueError("--data is missing: a stored dataset's name or a file.")
    if Path(source).is_file():
        dataset, report = library.import_file(Path(source))
        show(f"{dataset.name}: {len(report.kept)} of {report.rows} rows kept\n")
    else:
        dataset = library.find(source)
    base = catalog.prepare(args.base, show)
    started = launch.launch(args.stage, base, dataset, values, args.name, args.preset)
    show(f"{started.name} ({started.id})\n")
    return _wait(started)


def chat(args: argparse.Namespace) -> Any:
    """Ask checkpoints of one base the same question. `base` names the starting checkpoint."""
    from playground.chat import engine
    from playground.models.decode import Sampling

    names = args.run or ["base"]
    columns = [None if name == "base" else run.find(name) for name in names]
    ref = args.base or next((r.request["base"] for r in columns if r), catalog.EMBEDDED)
    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    answers = [""] * len(columns)
    for answers in engine.reply(
        ref, columns, [[{"role": "user", "content": args.prompt}]] * len(columns), sampling, show
    ):
        show(f"{sum(len(a.split()) for a in answers)} words")
    show("")
    return [{"run": name, "answer": answer} for name, answer in zip(names, answers, strict=True)]


def evaluate(args: argparse.Namespace) -> Any:
    """Measure a run, or `base`, on a dataset's held-out prompts: its checks and factual probe, with intervals."""
    from playground.stages.evaluate import evaluate

    tuned = None if args.run == "base" else run.find(args.run)
    identity = tuned.request["base_identity"] if tuned else None
    base = catalog.prepare(tuned.request["base"] if tuned else args.base, show, identity)
    if tuned and base.identity != tuned.request["base_identity"]:
        raise ValueError(f"{base.title} has changed since {tuned.name} was trained on it.")
    limits = yaml.safe_load(Path(args.checks).read_text(encoding="utf-8")) if args.checks else None
    if limits is not None and not isinstance(limits, dict):
        raise ValueError(f"{args.checks} should hold lines such as 'max_words: 60'.")
    found = evaluate(base, tuned, library.find(args.data), show, limits)
    show("")
    if not args.json:
        return "\n".join(found.words())
    return {"run": args.run, "data": args.data, **found.as_json()}


def runs(args: argparse.Namespace) -> Any:
    """List the runs, oldest first."""
    return [
        {
            "run": r.id,
            "name": r.name,
            "stage": r.request["stage"],
            "base": r.request["base_title"],
            "data": r.request["dataset"]["name"],
            "state": (s := r.status()).state,
            "step": s.step,
            "total": s.total,
            "message": s.message,
        }
        for r in run.list_runs()
    ]


def stop(args: argparse.Namespace) -> Any:
    """Stop a run after its step, with its weights saved."""
    found = run.find(args.run)
    found.request_stop()
    return {"run": found.id, "name": found.name, "state": found.status().state}


def resume(args: argparse.Namespace) -> Any:
    """Go on with a run that ended early, from its last checkpoint."""
    found = run.find(args.run)
    found.requeue()
    queue.start_worker()
    return _wait(found)


def _pairs(given: list[str]) -> dict[str, str]:
    """Names and values of --set KEY=VALUE."""
    for pair in given:
        if "=" not in pair:
            raise ValueError(f"--set takes KEY=VALUE, such as max_steps=20; got {pair!r}.")
    return {key.strip(): value for key, value in (pair.split("=", 1) for pair in given)}


def _wait(started: run.Run) -> Any:
    """Shows progress until the run ends; Ctrl-C asks it to stop and save."""
    while True:
        try:
            if not (status := started.status()).active:
                break
            eta = f", {status.eta:.0f} s left" if status.eta else ""
            show(f"{started.name}: {status.phase}, step {status.step} of {status.total}{eta}")
            time.sleep(0.3)
        except KeyboardInterrupt:
            started.request_stop()
    show("")
    if status.state in ("failed", "interrupted"):
        raise ValueError(f"{started.name} {status.state}: {status.message}")
    return {
        "run": started.id,
        "name": started.name,
        "state": status.state,
        "metrics": started.receipt().get("metrics", {}),
    }


def show(text: str, share: float | None = None) -> None:
    """One line of progress on standard error; on a terminal it is written over."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    elif text and text != show.last:  # type: ignore[attr-defined]
        sys.stderr.write(text.rstrip("\n") + "\n")
        show.last = text  # type: ignore[attr-defined]
    sys.stderr.flush()


show.last = ""  # type: ignore[attr-defined]


def parser() -> argparse.ArgumentParser:
    """Every verb with its options."""
    top = argparse.ArgumentParser(prog="python -m playground", description=__doc__.split("\n")[0] if __doc__ else None)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        added = verbs.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        added.add_argument("--json", action="store_true", help="print one JSON document")
        added.set_defaults(function=function)
        return added

    verb(models).add_argument("--fetch", metavar="MODEL", help="fetch and convert this model now")
    verb(settings).add_argument("stage", choices=STAGES)
    check = verb(data)
    check.add_argument("action", choices=["check", "list"])
    check.add_argument("file", nargs="?")
    training = verb(train)
    training.add_argument("stage", choices=STAGES)
    training.add_argument("--data", help="a stored dataset's name, or a file")
    training.add_argument("--base", default=catalog.EMBEDDED, help="embedded, a folder, a .gguf file or a Hub id")
    training.add_argument("--preset", help="start from these settings")
    training.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; may be repeated"
    )
    training.add_argument("--name", help="what to call the run")
    talk = verb(chat)
    talk.add_argument("--run", action="append", help="a run's name or id, or base; may be repeated")
    talk.add_argument("--base", help="the starting checkpoint, where no run says so")
    talk.add_argument("--prompt", required=True)
    talk.add_argument("--max-new-tokens", type=int, default=128)
    talk.add_argument("--temperature", type=float, default=0.0)
    talk.add_argument("--top-k", type=int, default=0)
    talk.add_argument("--top-p", type=float, default=1.0)
    talk.add_argument("--seed", type=int, default=0)
    measure = verb(evaluate)
    measure.add_argument("run", help="a run's name or id, or base")
    measure.add_argument("--data", required=True, help="a dataset; its held-out prompts are asked")
    measure.add_argument("--checks", metavar="FILE", help="a YAML file of checks, for a dataset without its own")
    measure.add_argument("--base", default=catalog.EMBEDDED, help="the starting checkpoint, for `base`")
    verb(runs)
    verb(stop).add_argument("run")
    verb(resume).add_argument("run")
    return top


def plain(result: Any) -> str:
    """The result for a person: a line an entry."""
    if isinstance(result, list):
        return "\n".join(plain(item) for item in result) or "(none)"
    if isinstance(result, dict):
        return "  ".join(
            f"{key}={json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}"
            for key, value in result.items()
            if key != "answers"
        )
    return str(result)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; errors that are meant for people become one line."""
    args = parser().parse_args(argv)
    try:
        result = args.function(args)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a library's own: its type tells more than its text
        if "PLAYGROUND_DEBUG" in os.environ:
            raise
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1, ensure_ascii=False) if args.json else plain(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
