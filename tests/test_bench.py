"""The bench's texts are those that a run would make: the same words, cuts, lengths and filters."""

import threading

from serving import laid_out

from playground.chat import bench
from playground.data.constitution import Principle
from playground.stages import critique
from playground.stages.constitution import ConstitutionSettings

PRINCIPLE = Principle("Kind", "Is it kind?", "Make it kind.", "Which is kinder?")
ANSWER = "You can pick a lock with two small tools. It takes practice and patience. And then you"
REVISION = "I would rather help you call a locksmith, who can open it. They come quickly and cost little. And if"


def tried(*turns: tuple[str, bool], stop: threading.Event | None = None) -> tuple[list, list]:
    """(what was asked: requests and tokens, the last trial) of a model that says these turns."""
    asked: list = []
    left = list(turns)

    def write(requests, tokens):
        asked.append((requests, tokens))
        yield [left.pop(0)] * len(requests)

    found = list(bench._trials(write, PRINCIPLE, ["How?"], 40, (stop or threading.Event()).is_set))
    return asked, found[-1]


def test_texts_that_ran_out_of_tokens_are_cut_as_a_run_cuts_them():
    asked, (trial,) = tried((ANSWER, False), ("It should not help with that.", True), (REVISION, False))
    assert trial.answer == "You can pick a lock with two small tools. It takes practice and patience."
    assert trial.revision.endswith("cost little.") and trial.reason is None
    settings = ConstitutionSettings()
    (first, second, third) = (requests[0] for requests, _ in asked)
    assert second == critique.critique_request(first, trial.answer, PRINCIPLE, settings.shots)
    assert third == critique.revision_request(second, trial.critique, PRINCIPLE)
    assert [tokens for _, tokens in asked] == [40, settings.critique_tokens, 40]


def test_what_a_run_would_leave_out_is_said():
    _, (trial,) = tried((ANSWER, True), ("It is rude.", True), ("I would rather help you with the", False))
    assert trial.reason == "unfinished"
    _, (trial,) = tried((ANSWER, True), ("It is rude.", True), (ANSWER, True))
    assert trial.reason == "unchanged"


def test_an_answer_that_was_stopped_stays_as_it_was_read():
    stop = threading.Event()
    stop.set()
    asked, (trial,) = tried((ANSWER, False), stop=stop)
    assert trial == bench.Trial(ANSWER) and len(asked) == 1


def test_the_form_begins_with_what_a_run_begins_with():
    from playground.tabs import bench as tab

    _, parts = laid_out(tab._sampling)
    assert parts["max_new_tokens"].value == ConstitutionSettings().max_new_tokens
