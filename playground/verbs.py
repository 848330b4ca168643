"""The verbs of the command line, one a function, on the tabs' own functions.

Each takes the parsed arguments and returns what is printed.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from playground.data import constitutions, library
from playground.data.constitution import dump
from playground.data.readers import read_file
from playground.data.report import examine
from playground.models import catalog
from playground.runs import queue, run
from playground.stages import launch, recipes


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


def constitution(args: argparse.Namespace) -> Any:
    """Show a constitution (or list them all), import a file as one, or tell what differs between two."""
    if args.name and args.action != "import":
        raise ValueError("--name goes with constitution import.")
    if args.action == "show" and not args.what:
        newest = [version for name in constitutions.names() if (version := constitutions.newest(name))]
        return [
            {"name": v.name, "version": v.number, "principles": len(v.constitution.principles), "sha256": v.sha256}
            for v in newest
        ]
    if not 1 <= len(args.what) <= (2 if args.action == "diff" else 1):
        wanted = {"show": "a name", "import": "a file", "diff": "one or two names or files"}[args.action]
        raise ValueError(f"constitution {args.action} needs {wanted}; got {len(args.what)}.")
    if args.action == "diff":
        old, new = constitutions.compared(*args.what)
        changes = constitutions.diff(old, new)
        if not args.json:
            return "\n".join(constitutions.diff_words(changes))
        return {
            "before": constitutions.known(old),
            "after": constitutions.known(new),
            "changes": [dataclasses.asdict(change) for change in changes],
        }
    if args.action == "import":
        version = constitutions.import_file(Path(args.what[0]), args.name)
    else:
        version = constitutions.find(args.what[0])
    if args.json:
        return constitutions.known(version) | {"about": version.constitution.about}
    if args.action == "import":
        return f"{version.label}: {len(version.constitution.principles)} principles"
    return dump(version.constitution).rstrip("\n")


def train(args: argparse.Namespace) -> Any:
    """Start a run, wait for its end and show its progress. Ctrl-C stops it after the step, with its weights saved."""
    values = _pairs(args.set)
    # Everything typed is checked before a file is stored or a model fetched.
    launch.stage(args.stage).Settings.parse({**launch.preset_settings(args.stage, args.preset, values), **values})
    source = args.data or (launch.presets(args.stage)[args.preset].get("data") if args.preset else None)
    if not source:
        raise ValueError("--data is missing: a stored dataset's name or a file.")
    parent = run.find(args.parent) if args.parent else None
    kind = launch.stage(args.stage).COLUMNS
    if Path(source).is_file():
        dataset, report = library.import_file(Path(source), kind=kind)
        show(f"{dataset.name}: {len(report.kept)} of {report.rows} rows kept\n")
    else:
        dataset = library.find(source, kind)
    if parent and args.base is None:
        base = catalog.prepare(parent.request["base"], show, parent.request["base_identity"])
    else:
        base = catalog.prepare(args.base or catalog.EMBEDDED, show)
    started = launch.launch(args.stage, base, dataset, values, args.name, args.preset, parent)
    show(f"{started.name} ({started.id})\n")
    return _wait(started)


def recipe(args: argparse.Namespace) -> Any:
    """Run a whole recipe, stage after stage, and show its progress; without a name, list the recipes."""
    if not args.name:
        return [{"name": name, "about": entry["about"]} for name, entry in recipes.recipes().items()]
    recipes.steps(args.name)  # a name that is not known is told before a model is fetched
    started = recipes.start(args.name, catalog.prepare(args.base, show), args.constitution)
    ended = []
    for step in started:
        ended.append(_wait(step) | {"outcome": launch.stage(step.request["stage"]).outcome(step)})
        if ended[-1]["state"] != "finished":  # the others wait in the queue until this one is resumed
            break
    return ended


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
    """Measure a run, or `base`, on a dataset's held-out prompts: checks, factual probe, and whom a judge prefers."""
    from playground.stages.evaluate import Trial, evaluate

    tuned = None if args.run == "base" else run.find(args.run)
    identity = tuned.request["base_identity"] if tuned else None
    base = catalog.prepare(tuned.request["base"] if tuned else args.base, show, identity)
    if tuned and base.identity != tuned.request["base_identity"]:
        raise ValueError(f"{base.title} has changed since {tuned.name} was trained on it.")
    limits = yaml.safe_load(Path(args.checks).read_text(encoding="utf-8")) if args.checks else None
    if limits is not None and not isinstance(limits, dict):
        raise ValueError(f"{args.checks} should hold lines such as 'max_words: 60'.")
    if args.against and not args.judge:
        raise ValueError("--against needs --judge: a reward run that compares the two.")
    judge = run.find(args.judge) if args.judge else None
    parent = (tuned.request["parent"] or {}).get("id") if tuned else None
    named = args.against or parent or "base"
    against = None if named == "base" or not judge else run.find(named)
    found = evaluate(Trial(base, tuned, library.find(args.data, "prompts"), judge, against), show, limits)
    show("")
    if not args.json:
        return "\n".join(found.words())
    return {"run": args.run, "data": args.data, **found.as_json()}


def score(args: argparse.Namespace) -> Any:
    """What a reward run says of answers: typed ones (--prompt, --answer), or all of a file or dataset (--data)."""
    from playground.chat import scoring

    judge = run.find(args.run)
    if args.out and not (args.data and Path(args.out).absolute().parent.is_dir()):
        raise ValueError("--out goes with --data, and needs a folder that exists.")
    if args.data:
        rows = _scored_rows(args.data)
        table = scoring.score_table(judge, rows, show)
        show("")
        rate = scoring.accuracy(table)
        if args.out:
            Path(args.out).write_text(scoring.as_csv(table), encoding="utf-8")
        if not args.json:
            lines = [f"{len(table)} answers scored" + (f", in {args.out}" if args.out else "")]
            return "\n".join(lines + ([f"chosen scores higher: {rate}"] if rate else [])) if args.out or rate else table
        return {"run": judge.name, "accuracy": rate._asdict() if rate else None, "rows": table}
    if not args.prompt or not args.answer:
        raise ValueError("score needs --prompt and --answer, or --data.")
    prompt = [{"role": "user", "content": args.prompt}]
    scores = scoring.score(judge, [(prompt, answer) for answer in args.answer], show)
    show("")
    return [
        {
            "answer": answer,
            "score": found.score,
            "percentile": found.percentile,
            "preferred_over": {
                other: scoring.preferred(found.score, scores[i].score)
                for i, other in enumerate(args.answer)
                if other != answer
            },
        }
        for answer, found in zip(args.answer, scores, strict=True)
    ]


def _scored_rows(source: str) -> list[Any]:
    """The rows of a file, or the held-out rows of a stored dataset (all of them, where nothing is held out)."""
    if Path(source).is_file():
        report = examine(read_file(Path(source), Path(source).name))
        if not report.kept:
            raise ValueError(f"{source}: {report.refusal()}")
        show("\n".join(report.words()) + "\n")
        return report.kept
    dataset = library.find(source, "preference")
    return dataset.rows("heldout") or dataset.rows("train")


def runs(args: argparse.Namespace) -> Any:
    """List the runs, oldest first."""
    return [
        {
            "run": r.id,
            "name": r.name,
            "stage": r.request["stage"],
            "base": r.request["base_title"],
            "parent": (r.request.get("parent") or {}).get("name"),
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
