"""Which checkpoint judges: found, loaded when the one that wrote is gone, tried on the probe, its words chosen."""

import gc
import json
import time
from typing import TYPE_CHECKING, Any

from playground.data.rendering import Renderer
from playground.home import write_atomically
from playground.models import catalog
from playground.runs import run as runs
from playground.runs.run import Run
from playground.settings import SettingError
from playground.stages import harvest, judge_probe, judging
from playground.stages.inputs import WEIGHTS, StageError, heed_stop, judge_of

if TYPE_CHECKING:
    from playground.stages.feedback import FeedbackSettings
    from playground.stages.writing import Writer


def check_options(settings: "FeedbackSettings") -> None:
    """SettingError for words that belong to the other method, and for two judges at once."""
    known = judging.FORMATS[settings.method]
    if settings.options not in ("auto", *known):
        raise SettingError(f"A {settings.method} judge chooses by {', '.join(known)} or auto; got {settings.options}.")
    if settings.judge and settings.judge_model:
        raise SettingError("Choose a judge run or a judge model, not both.")
    if settings.judge_model:
        catalog.kind(settings.judge_model)


def asked_judge(settings: "FeedbackSettings") -> Run | None:
    """The run that was named as the judge; SettingError unless it can speak."""
    if not settings.judge:
        return None
    found = runs.find(settings.judge)
    if found.request["stage"] in ("reward", *harvest.MAKERS):
        raise SettingError(f"{found.name} can't judge here: it has no weights that answer a question.")
    if found.status().active or not (found.adapter / WEIGHTS).exists():
        raise SettingError(f"{found.name} has no finished weights to judge with.")
    return found


def open_judge(settings: "FeedbackSettings", run: Run) -> judging.Judge:
    """The checkpoint that judges: a named run, a named model, or the one that wrote, loaded when that one is gone."""
    from playground.models import loading
    from playground.models.adapters import open_adapters
    from playground.stages.writing import Writer, open_writer

    gc.collect()
    _empty_cuda()
    other = judge_of(run)
    if other is None and not settings.judge_model:
        title = (run.request["parent"] or {}).get("name") or run.request["base_title"]
        return _able(open_writer(run, settings.quantization), settings, title, run.request["base_identity"])
    run.update(phase="preparing the judge")

    def progress(text: str, share: float | None = None) -> None:
        run.update(phase=text)

    asked = (other.request["base"], other.request["base_identity"]) if other else (settings.judge_model, None)
    base = catalog.prepare(asked[0], progress, asked[1])
    if other and base.identity != asked[1]:
        raise StageError(f"{base.title} has changed on disk since {other.name} was trained; choose another judge.")
    heed_stop(run)
    run.update(phase="loading the judge")
    model: Any = loading.load_base(base, loading.placement(settings.quantization))
    renderer = Renderer(base.folder)
    adapters = open_adapters(model, other.id, other.adapter) if other else None
    ends = loading.eos_ids(model, renderer.eos_id)
    spoken = adapters.model if adapters else model
    writer = Writer(spoken, renderer, ends, adapters, other.id if other else None, run.stop_requested)
    return _able(writer, settings, other.name if other else base.title, base.identity)


def _able(writer: "Writer", settings: "FeedbackSettings", title: str, identity: str) -> judging.Judge:
    """The judge, before its words are chosen; StageError where its tokens allow none of them."""
    usable, skipped = judging.formats(writer.renderer, settings.method)
    names = usable if settings.options == "auto" else [name for name in usable if name == settings.options]
    if not names:
        why = skipped.get(settings.options) or next(iter(skipped.values()))
        raise StageError(f"This judge can't choose between such words: {why}; choose other words or another judge.")
    inner = writer.model.get_base_model() if hasattr(writer.model, "get_base_model") else writer.model
    most = getattr(inner.config, "max_position_embeddings", None) or 2048
    return judging.Judge(writer, settings.method, names[0], most, title, identity)


def _empty_cuda() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tried(
    settings: "FeedbackSettings", run: Run, judge: judging.Judge, principles: list[judging.Question]
) -> dict[str, Any]:
    """What the judge gets right on the probe; measured once a run and kept in judge.json. {} if it was stopped."""
    if known := harvest.judge_known(run):
        if known["identity"] != judge.identity:
            raise StageError(f"{judge.title} has changed on disk since this run tried it; start a new run.")
        return known
    began = time.monotonic()

    def tell(name: str, share: float) -> None:
        eta = (time.monotonic() - began) / share * (1 - share) if share else None
        run.update(phase=f"probing the judge ({name})", eta=eta)

    run.update(phase="probing the judge", step=0, total=0, eta=None)
    found = judge_probe.probe(judge, principles, settings.options, tell)
    if found:
        found |= {"judge": judge.title, "identity": judge.identity}
        write_atomically(run.folder / harvest.JUDGE, json.dumps(found, indent=1, ensure_ascii=False))
        print(judge_probe.words(found))
    return found
