"""The Score tab's functions on a tiny reward model: what they say of answers, of files and of the model itself."""

import csv
import json
import re

import gradio as gr
import pytest
from test_page import ATTACK, Parts, assert_harmless
from test_scoring import reward_run, tiny_run, write_adapter

from playground.chat import resident, scoring
from playground.stages import judgement
from playground.statistics import sigmoid, wilson
from playground.tabs import explorer, html

CAT = "Why do cats purr?"
ANSWERS = {"A": "They are content.", "B": "No.", "C": "Because they like you, or want food.", "D": "hello hello"}
UNSURE = [(1.0, 0.9), (0.2, 0.4), (0.7, 0.7), (3.0, 0.0)] * 5  # scores of (chosen, rejected): half of them right, a tie


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(resident, "_loaded", None)


@pytest.fixture
def judge(tiny_model):
    return reward_run(tiny_model)


def measured(run, scores=UNSURE, lengths=((5, 5),)):
    """Leaves beside the run's weights what the reward stage leaves there."""
    found = judgement.judge(scores, (list(lengths) * len(scores))[: len(scores)])
    known = {**found, "mean": 0.5, "std": 2.0, "training": [-1000.0, -999.0, 1000.0]}
    (run.adapter / judgement.FILE).write_text(json.dumps(known))
    return found


def asked(run, prompt=CAT, before=None, **answers):
    return explorer.scored(run and run.id, prompt, before or {}, **answers)


def cells(shown) -> list[list[str]]:
    """The table's rows: letter, score, since your last wording, place."""
    body = shown.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall("<td>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


def duels(shown) -> list[str]:
    return re.findall(r'<p class="pg-state">(.*?)</p>', shown)


def own_scores(run, answers, prompt=CAT) -> dict[str, float]:
    items = [([{"role": "user", "content": prompt}], text) for text in answers.values()]
    return {letter: found.score for letter, found in zip(answers, scoring.score(run, items), strict=True)}


# ---- answers


@pytest.mark.parametrize("letters", ["A", "AB", "ABCD", "BD"])
def test_every_answer_has_its_score_and_every_two_their_odds(judge, letters):
    answers = {letter: ANSWERS[letter] for letter in letters}
    shown, now = asked(judge, **{**dict.fromkeys("ABCD", ""), **answers})
    own = own_scores(judge, answers)
    assert [row[:2] for row in cells(shown)] == [[letter, f"{score:+.2f}"] for letter, score in own.items()]
    assert duels(shown) == [f"P({a} ≻ {b}) = {sigmoid(own[a] - own[b]):.0%}" for a in letters for b in letters if a < b]
    assert {letter: (run, prompt, text) for letter, (run, prompt, text, _) in now.items()} == {
        letter: (judge.id, CAT, text) for letter, text in answers.items()
    }
    assert [now[letter][3] for letter in letters] == pytest.approx(list(own.values()), abs=1e-4)


def test_every_token_is_shown_with_the_score_after_it_and_the_last_one_is_the_answer_s(judge):
    shown, _ = asked(judge, A=ANSWERS["A"], B=ANSWERS["B"])
    for letter, tokens in zip("AB", shown.split('<div class="pg-tokens">')[1:], strict=True):
        spans = re.findall(r'title="([^"]*)">([^<]*)</span>', tokens)
        assert "".join(text for _, text in spans) == ANSWERS[letter] + "&lt;|im_end|&gt;"
        assert spans[-1][0] == dict(row[:2] for row in cells(shown))[letter]


def test_where_a_score_stands_is_known_once_training_answers_were_scored(judge):
    assert cells(asked(judge, A="No.")[0])[0][3] == "unknown"
    measured(judge)
    assert cells(asked(judge, A="No.")[0])[0][3] == "above 67% of the training answers"


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [("", {"A": "No."}), ("  \n", {"A": "No."}), (None, {"A": "No."}), (CAT, {}), (CAT, {"A": " ", "B": None})],
)
def test_empty_fields_are_a_sentence(judge, prompt, answers):
    with pytest.raises(gr.Error, match=r"Type a question and at least one answer\."):
        explorer.scored(judge.id, prompt, {}, **answers)


def test_without_a_reward_model_it_says_how_to_get_one():
    for none in (None, ""):
        with pytest.raises(gr.Error, match=r"No reward model yet\. Train one in the Reward model tab"):
            explorer.scored(none, CAT, {}, A="No.")


def test_a_run_that_gives_no_scores_or_is_gone_is_a_sentence(judge, tiny_model):
    tuned = tiny_run(tiny_model, "tuned", "sft", {"quantization": "none"})
    write_adapter(tuned, tiny_model, 2)
    with pytest.raises(gr.Error, match="tuned is not a reward model; train one in the Reward model tab"):
        asked(tuned, A="No.")
    judge.update(state="finished")
    judge.delete()
    with pytest.raises(gr.Error, match="There is no run"):
        asked(judge, A="No.")


def test_an_answer_that_is_longer_than_the_model_reads_is_a_sentence(judge):
    with pytest.raises(gr.Error, match=r"Answer 2 is \d+ tokens long with its prompt; 512 at most"):
        asked(judge, A="No.", B="x" * 600)


def test_the_difference_is_shown_where_only_the_wording_changed(judge, tiny_model):
    first, before = asked(judge, A=ANSWERS["A"], B=ANSWERS["B"])
    assert [row[2] for row in cells(first)] == ["", ""]
    again, before = asked(judge, before=before, A=ANSWERS["A"], B=ANSWERS["B"])
    assert [row[2] for row in cells(again)] == ["", ""]

    edited = {"A": "They are angry.", "B": ANSWERS["B"]}
    shown, now = asked(judge, before=before, **edited)
    own = own_scores(judge, {"before": ANSWERS["A"], "now": edited["A"]})
    moved = own["now"] - own["before"]
    assert round(moved, 2)
    assert [row[2] for row in cells(shown)] == [f"{moved:+.2f}", ""]
    shown, _ = asked(judge, before=now, **edited)
    assert [row[2] for row in cells(shown)] == ["", ""]  # it is compared with the last time, not with the first

    shown, _ = asked(judge, "Why do dogs bark?", before, **edited)
    assert [row[2] for row in cells(shown)] == ["", ""]  # another question
    shown, _ = asked(reward_run(tiny_model, 2, name="other"), before=before, **edited)
    assert [row[2] for row in cells(shown)] == ["", ""]  # another model


def test_hostile_questions_and_answers_show_as_text(judge):
    measured(judge)
    shown, _ = asked(judge, ATTACK, A=ATTACK, B=f"{ATTACK} again")
    assert_harmless(shown, 2)
    assert Parts(shown).text.count("<script>") == 2  # nobody needs to see the question again


# ---- what the model is worth


def test_trust_says_what_is_missing(judge):
    assert explorer.trust_html(judge).count("not measured on held-out pairs") == 1
    assert "Choose a reward model." in explorer.trust_html(None)
    judge.update(state="finished")
    judge.delete()
    assert "No reward model yet" in explorer.trust_html(None)


def test_trust_says_how_often_it_is_right_and_how_sure_it_may_be(judge):
    metrics = measured(judge)["metrics"]
    words = Parts(explorer.trust_html(judge)).text
    assert f"Right on {wilson(12.5, 20)} of held-out pairs; correlation of score and length +0.00." in words
    assert f"off by {metrics['eval_ece']:.0%} on average" in words


@pytest.mark.parametrize(
    ("scores", "lengths", "said", "unsaid"),
    [
        ([(9.0, 0.0)] * 3 + [(0.0, 9.0)], [(5, 5)], "and too sure (best temperature ", "too timid"),
        ([(0.1, 0.0)] * 19 + [(0.0, 0.1)], [(5, 5)], "and too timid (best temperature ", "too sure"),
        ([(1.0986, 0.0)] * 3 + [(0.0, 1.0986)], [(5, 5)], " on average.", "best temperature"),  # σ(ln 3) = 3/4
        ([(3.0, 1.0), (2.0, 0.0)] * 4, [(9, 3), (8, 1)], ", so it counts words in part", "00,"),
        ([(3.0, 1.0), (2.0, 0.0)] * 4, [(3, 9), (1, 8)], ", so it counts words in part", "00,"),
    ],
)
def test_trust_warns_where_it_must(judge, scores, lengths, said, unsaid):
    measured(judge, scores, lengths)
    words = Parts(explorer.trust_html(judge)).text
    assert said in words
    assert unsaid not in words


def test_the_newest_reward_run_is_looked_at_until_another_is_chosen(judge, tiny_model):
    picker, *_ = explorer.refresh(None)
    assert picker.value == judge.id
    newer = reward_run(tiny_model, 2, name="newer")
    tiny_run(tiny_model, "unfinished", "reward", {})  # no weights yet
    write_adapter(tiny_run(tiny_model, "tuned", "sft", {}), tiny_model, 2)
    picker, *_ = explorer.refresh(None)
    assert picker.choices == [("newer (on rows)", newer.id), ("judge (on rows)", judge.id)]
    assert picker.value == newer.id
    assert explorer.refresh(judge.id)[0].value == judge.id
    judge.update(state="finished")
    judge.delete()
    assert explorer.refresh(judge.id)[0].value == newer.id


def test_without_a_run_there_is_nothing_to_look_at():
    picker, trust, curve, margins = explorer.refresh(None)
    assert (picker.choices, picker.value, curve, margins) == ([], None, None, None)
    assert "No reward model yet" in trust


def test_the_curves_are_drawn_from_the_held_out_pairs(judge):
    assert explorer._look(judge.id)[1:] == [None, None]
    found = measured(judge)
    trust, curve, margins = explorer._look(judge.id)
    assert trust == explorer.trust_html(judge)
    drawn = curve[curve["series"] == "this model"][["confidence", "accuracy"]].values.tolist()
    assert drawn == [[part["confidence"], part["accuracy"]] for part in found["reliability"]]
    assert curve[curve["series"] == "perfect"][["confidence", "accuracy"]].values.tolist() == [[0.5, 0.5], [1.0, 1.0]]
    assert dict(zip(margins["margin"], margins["pairs"], strict=True)) == {0.0: 15, 3.0: 5}


def test_a_run_deleted_on_another_page_is_a_sentence(judge):
    judge.update(state="finished")
    judge.delete()
    with pytest.raises(gr.Error, match="There is no run"):
        explorer._look(judge.id)


# ---- files


def upload(folder, judge, content, name="answers.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        return explorer.score_file(judge and judge.id, str(path))
    finally:
        assert not path.exists()  # uploads are not kept


def lines_of(download) -> list[dict[str, str]]:
    with open(download.value["path"], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_of_answers_comes_back_with_scores(judge, tmp_path):
    measured(judge)
    table, download = upload(tmp_path, judge, f"prompt,answer\n{CAT},No.\n{CAT},=1+1\n{CAT},\n")
    assert table.label.startswith("Scores of 2 answers; 1 rows left out: ")
    assert table.value["headers"] == ["row", "prompt", "answer", "score", "percentile"]
    own = own_scores(judge, {"1": "No.", "2": "=1+1"})
    rows = table.value["data"]
    assert [row[:3] for row in rows] == [[1, CAT, "No."], [2, CAT, "=1+1"]]
    assert [row[3] for row in rows] == pytest.approx(list(own.values()), abs=2e-4)
    assert all(len(str(row[3])) < 8 for row in rows)  # in the table, fewer digits
    assert download.interactive
    lines = lines_of(download)
    assert [line["answer"] for line in lines] == ["No.", "'=1+1"]  # a spreadsheet would run the second one
    assert [round(float(line["score"]), 4) for line in lines] == [row[3] for row in rows]
    assert {round(float(line["percentile"]), 4) for line in lines} == {0.6667}


def test_a_file_of_pairs_says_how_often_the_chosen_side_wins(judge, tmp_path):
    pairs = "".join(f"Is {i} even?,{'Yes' if i % 2 else 'No'} {i}.,Who knows.\n" for i in range(5))
    table, download = upload(tmp_path, judge, f"prompt,chosen,rejected\n{pairs}")
    lines = lines_of(download)
    assert [(line["row"], line["side"]) for line in lines[:2]] == [("1", "chosen"), ("1", "rejected")]
    wins = sum(float(a["score"]) > float(b["score"]) for a, b in zip(lines[::2], lines[1::2], strict=True))
    assert table.label == f"Scores: the chosen side wins in {wilson(wins, 5)}"
    assert len(table.value["data"]) == 10


def test_conversations_are_scored_at_their_last_answer(judge, tmp_path):
    row = {"messages": [{"role": "user", "content": CAT}, {"role": "assistant", "content": "No."}]}
    table, _ = upload(tmp_path, judge, json.dumps(row), "talk.jsonl")
    assert table.value["data"][0][3] == pytest.approx(own_scores(judge, {"A": "No."})["A"], abs=2e-4)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("many.csv", "prompt,answer\n" + "".join(f"Q {i}?,A.\n" for i in range(501)), "501 rows; 500 at most here."),
        ("cut.json", '[{"prompt": "Hi', "cut.json: "),
        ("empty.csv", "", "empty.csv: "),
        ("picture.csv", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, "picture.csv: "),
        ("weather.csv", "day,rain\nMonday,3\n", "No row can be used: no columns of a known shape (found: day, rain)"),
        ("long.csv", f"prompt,answer\nHi,{'x' * 600}\n", "Answer 1 is "),
    ],
)
def test_a_file_that_cannot_be_scored_is_one_sentence(judge, tmp_path, name, content, sentence):
    with pytest.raises(gr.Error) as refused:
        upload(tmp_path, judge, content, name)
    assert refused.value.message.startswith(sentence)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


def test_a_file_without_a_reward_model_is_not_kept_either(tmp_path):
    with pytest.raises(gr.Error, match="No reward model yet"):
        upload(tmp_path, None, "prompt,answer\nHi,Hello.\n")


def test_a_cleared_upload_changes_nothing(judge):
    assert explorer.score_file(judge.id, None) == [gr.skip(), gr.skip()]


# ---- heat


def grounds(shown) -> list[tuple[str, int]]:
    return [(colour, int(share)) for colour, share in re.findall(r"in srgb, (#\w+) (\d+)%, transparent", shown)]


def test_heat_is_blue_above_and_orange_below_and_never_too_strong_to_read_on():
    shown = html.heat(list("abcdef"), [0.0, 1.0, -1.0, 0.5, 40.0, -40.0], [0.0] * 6)
    blue, orange = "#3b82f6", "#f97316"
    assert grounds(shown) == [(orange, 0), (blue, 55), (orange, 55), (blue, 28), (blue, 55), (orange, 55)]


def test_heat_escapes_its_tokens_and_says_each_value():
    shown = html.heat([ATTACK, "a\nb"], [0.1, 0.2], [-1.234, 0.5])
    assert_harmless(shown)
    assert Parts(shown).attributes <= {"class", "style", "title"}
    assert re.findall('title="([^"]*)"', shown) == ["-1.23", "+0.50"]
    assert "a⏎\nb" in shown
