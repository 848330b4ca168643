"""The command line: `python -m playground VERB`.

With --json a verb prints one JSON document on standard output; everything else goes to standard error. Exit code 0,
or 1 with one line.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from playground import data_verbs, verbs
from playground.data.dataset import FILES
from playground.models import catalog
from playground.stages.launch import MAKERS, STAGES


def parser() -> argparse.ArgumentParser:
    """Every verb with its options."""
    top = argparse.ArgumentParser(prog="python -m playground", description=__doc__.split("\n")[0] if __doc__ else None)
    known = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        added = known.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        added.add_argument("--json", action="store_true", help="print one JSON document")
        added.set_defaults(function=function)
        return added

    verb(verbs.models).add_argument("--fetch", metavar="MODEL", help="fetch and convert this model now")
    verb(verbs.settings).add_argument("stage", choices=(*STAGES, *MAKERS))
    _data_options(verb(data_verbs.data))
    _constitution_options(verb(verbs.constitution))
    training = verb(verbs.train)
    training.add_argument("stage", choices=(*STAGES, *MAKERS))
    training.add_argument("--data", help="a stored dataset's name, or a file")
    training.add_argument("--base", help="embedded (the default), a folder, a .gguf file or a Hub id")
    training.add_argument("--from", dest="parent", metavar="RUN", help="continue this run's weights, on its base")
    training.add_argument("--preset", help="start from these settings")
    training.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; may be repeated"
    )
    training.add_argument("--name", help="what to call the run")
    cook = verb(verbs.recipe)
    cook.add_argument("name", nargs="?")
    cook.add_argument("--base", default=catalog.EMBEDDED, help="the starting model, as `train` takes it")
    cook.add_argument("--constitution", metavar="NAME", help="what its steps apply, in place of the recipe's own")
    talk = verb(verbs.chat)
    talk.add_argument("--run", action="append", help="a run's name or id, or base; may be repeated")
    talk.add_argument("--base", help="the starting checkpoint, where no run says so")
    talk.add_argument("--prompt", required=True)
    talk.add_argument("--max-new-tokens", type=int, default=128)
    talk.add_argument("--temperature", type=float, default=0.0)
    talk.add_argument("--top-k", type=int, default=0)
    talk.add_argument("--top-p", type=float, default=1.0)
    talk.add_argument("--seed", type=int, default=0)
    measure = verb(verbs.evaluate)
    measure.add_argument("run", help="a run's name or id, or base")
    measure.add_argument("--data", required=True, help="a dataset; its held-out prompts are asked")
    measure.add_argument("--checks", metavar="FILE", help="a YAML file of checks, for a dataset without its own")
    measure.add_argument("--base", default=catalog.EMBEDDED, help="the starting checkpoint, for `base`")
    measure.add_argument("--judge", metavar="RUN", help="a reward run that compares its answers with another's")
    measure.add_argument("--against", metavar="RUN", help="the other: a run or base; its parent unless named")
    judging = verb(verbs.score)
    judging.add_argument("run", help="a reward run's name or id")
    judging.add_argument("--prompt", help="one question")
    judging.add_argument("--answer", action="append", help="an answer to it; may be repeated")
    judging.add_argument(
        "--data", metavar="FILE|NAME", help="score every answer of a file, or of a dataset's held-out rows"
    )
    judging.add_argument("--out", metavar="FILE", help="write the scores as CSV")
    verb(verbs.runs)
    verb(verbs.stop).add_argument("run")
    verb(verbs.resume).add_argument("run")
    return top


def _data_options(rows: argparse.ArgumentParser) -> None:
    rows.add_argument("action", choices=["check", "keep", "list", "export", "rename", "delete"])
    rows.add_argument(
        "what", nargs="*", help="a file to check or keep; name or name@number, for export a file, too; a new name"
    )
    rows.add_argument("--name", help="what to call the file that is kept")
    rows.add_argument("--split", choices=["all", "train", "heldout"], help="the rows to export; all unless given")
    rows.add_argument(
        "--kind", choices=list(FILES), help="check, keep: the rows to take from a file that holds several kinds"
    )
    rows.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="check, keep: the column of a field; may be repeated",
    )
    rows.add_argument(
        "--pairs-by", choices=["best-worst", "adjacent", "all"], help="check, keep: which ranked answers to pair"
    )
    rows.add_argument("--min-margin", type=float, help="check, keep: scores nearer than this make no pair")
    rows.add_argument("--better", choices=["helpful", "safe"], help="check, keep: what better means")
    rows.add_argument("--good-from", type=float, help="check, keep: ratings from here on are thumbs up")


def _constitution_options(rules: argparse.ArgumentParser) -> None:
    rules.add_argument("action", choices=["show", "import", "diff"])
    rules.add_argument("what", nargs="*", help="name or name@number; a file for import; one or two, or files, for diff")
    rules.add_argument("--name", help="what to call the imported one")


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
    args, more = parser().parse_known_args(argv)
    if more and (any(word.startswith("-") for word in more) or not hasattr(args, "what")):
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        args.what += more  # argparse ends a list of arguments where an option stands
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
    try:
        print(json.dumps(result, indent=1, ensure_ascii=False) if args.json else plain(result), flush=True)
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return getattr(args, "code", 0)


if __name__ == "__main__":
    sys.exit(main())
