"""The constitution as data: its limits, what can be imported, its versions, and its verb on the command line."""

import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from playground import __main__ as command
from playground.data import constitutions
from playground.data.constitution import MOST_BYTES, Constitution, ConstitutionError, Principle, check, dump, parse
from playground.tabs import html

ROOT = Path(__file__).resolve().parent.parent
KIND = Principle("Be kind", "Find what is unkind.", "Make it kind.", "Which answer is kinder?")
TRUE = Principle("Be true", "Find what is false.", "Make it true.", "Which answer is truer?", 2.5, False)
OURS = Constitution("ours", "What we want.", (KIND, TRUE))


def one(**changes) -> Constitution:
    return Constitution("ours", "", (dataclasses.replace(KIND, **changes),))


def many(n: int, **changes) -> Constitution:
    return Constitution("ours", "", tuple(dataclasses.replace(KIND, title=f"Rule {i}", **changes) for i in range(n)))


def refusal(text: str, suffix: str = "") -> str:
    """The one sentence that parse() answers with, quickly."""
    began = time.monotonic()
    with pytest.raises(ConstitutionError) as refused:
        parse(text, "mine", suffix)
    assert time.monotonic() - began < 10  # seconds at most, even where two cores are busy with other things
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    assert 20 < len(sentence) < 300
    assert sentence.endswith((".", "?"))
    return sentence


def texts(constitution: Constitution) -> list[tuple[str, str, str, str]]:
    return [dataclasses.astuple(p)[:4] for p in constitution.principles]


# ---- the thing itself


def test_only_switched_on_principles_with_a_weight_are_active():
    asleep = dataclasses.replace(KIND, title="Asleep", weight=0.0)
    assert Constitution("ours", "", (KIND, TRUE, asleep)).active == (KIND,)


def test_the_hash_is_that_of_the_principles_alone():
    assert OURS.sha256 == Constitution("theirs", "Else.", (KIND, TRUE)).sha256
    others = [
        (TRUE, KIND),
        (KIND,),
        *(dataclasses.replace(KIND, **{f: "x"}) for f in ("title", "critique", "revision")),
    ]
    hashes = {Constitution("ours", "", other if isinstance(other, tuple) else (other,)).sha256 for other in others}
    assert len({OURS.sha256, *hashes}) == 6
    assert one(weight=2.0).sha256 != one().sha256 != one(enabled=False).sha256


# ---- limits


@pytest.mark.parametrize(("constitution", "sentence"), [
    (Constitution("ours", "", ()), "There are no principles; write at least one."),
    (many(65), "There are 65 principles; at most 64 are allowed, so join or drop some."),
    (one(title=" \n"), "Principle 1 has no title; give it a few words."),
    (one(title="x" * 81), f'Principle 1 ("{"x" * 59}…"): its title has 81 characters; at most 80 are allowed.'),
    (one(critique="\u202e"), 'Principle 1 ("Be kind"): its critique is empty; write a sentence.'),
    (one(revision="x" * 1001),
     'Principle 1 ("Be kind"): its revision has 1,001 characters; at most 1,000 are allowed.'),
    (one(comparison=3), 'Principle 1 ("Be kind"): its comparison should be text, not a number.'),
    (one(weight=10.5), 'Principle 1 ("Be kind"): its weight should be a number from 0 to 10, not 10.5.'),
    (one(weight=float("nan")), 'Principle 1 ("Be kind"): its weight should be a number from 0 to 10, not nan.'),
    (one(weight=-1), 'Principle 1 ("Be kind"): its weight should be a number from 0 to 10, not -1.'),
    (one(weight=True), 'Principle 1 ("Be kind"): its weight should be a number from 0 to 10, not True.'),
    (one(enabled="maybe"), 'Principle 1 ("Be kind"): enabled should be true or false, not maybe.'),
    (one(enabled=False), "No principle takes part; switch one on and give it a weight above 0."),
    (one(weight=0), "No principle takes part; switch one on and give it a weight above 0."),
    (Constitution("ours", "", (KIND, TRUE, dataclasses.replace(KIND, title="be  KIND "))),
     'Principle 3 ("be KIND") has the title of principle 1; give it another.'),
    (Constitution("ours", "x" * 1001, (KIND,)), "The line about it has 1,001 characters; at most 1,000 are allowed."),
    (many(64, critique="界" * 1000, revision="界" * 1000, comparison="界"),
     "Written as a file, this takes 389 kB; 200 kB is the limit, so shorten it."),
])  # fmt: skip
def test_a_limit_names_the_principle_and_the_field(constitution, sentence):
    with pytest.raises(ConstitutionError) as refused:
        check(constitution)
    assert str(refused.value) == sentence


def test_check_tidies():
    untidy = one(title=" Be\n kind\x00 ", critique="a\x1b[31m\r\nb\u2066\U000e0041", weight=1)
    found = check(dataclasses.replace(untidy, name="../../My rules!"))
    assert found.name == "My-rules"
    assert (found.principles[0].title, found.principles[0].critique) == ("Be kind", "a[31m\nb")
    assert check(found) == found
    assert isinstance(found.principles[0].weight, float)


# ---- our own file


def test_our_yaml_can_be_read_by_people_and_comes_back():
    text = dump(OURS)
    assert text.startswith("name: ours\nabout: What we want.\nprinciples:\n- title: Be kind\n  critique: Find what")
    assert yaml.safe_load(text)["principles"][1]["weight"] == 2.5
    assert parse(text, "else") == OURS
    assert parse(json.dumps(dataclasses.asdict(OURS)), "else") == OURS


def test_several_lines_are_written_as_several_lines():
    text = dump(one(critique="First this.\n\n  - then: that\nAnd done."))
    assert "  critique: |-\n    First this.\n\n      - then: that\n    And done.\n" in text


@pytest.mark.parametrize("text", [
    "yes", "No", "null", "~", "1.0", "0o17", "012", "1:30", "2024-01-01", "=", "<<", ".nan", "true", "- dash", "-", "?",
    "key: value", "a # b", "#c", "'single'", '"double"', "it's \"both\"", "&anchor", "*alias", "!tag", "%TAG", "@at",
    "`tick`", "[list]", "{map}", "|", ">", "|-\n x", "---", "...", "a\n---\nb", "a\n\n\n b", "ends with colon:",
    "back\\slash", "Options: (A) one (B) two", "CritiqueRequest: x\nCritique:", "ünïcödé 界 🙂 👩‍👩‍👧", "a  b   c",
    "x " * 400, "x" * 1000, "x\u00a0y", "a\n   indented\nb", "trailing  \nspaces", "Human: hi\nAssistant: ho",
])  # fmt: skip
def test_every_text_comes_back_as_it_was(text):
    made = check(Constitution(text, text, (Principle(text[:80], text, text, text),)))
    assert parse(dump(made), "else") == made
    assert parse(json.dumps(dataclasses.asdict(made)), "else") == made


def test_random_texts_come_back_as_they_were():
    chance = random.Random(5)
    pieces = [
        *"abc XYZ\n\n  :-#'\"\\{}[]&*!|>%@`,?~=<.09",
        ": ",
        "\n- ",
        "\n  ",
        "界",
        "🙂",
        "é",
        "\u00a0",
        "\u3000",
        "null",
    ]
    pieces += ["\U0010ffff", "\u200b", "\t", "\x85", "\u2028", "\r\n", "\x7f"]
    for _ in range(300):
        title, *rest = ("".join(chance.choices(pieces, k=chance.randint(1, 120))) + "x" for _ in range(4))
        made = check(
            Constitution("ours", rest[0], (Principle(f"T{title[:78]}", *rest, round(chance.random() * 10, 3)),))
        )
        assert parse(dump(made), "else") == made


# ---- what can be imported


@pytest.mark.parametrize("text", [
    "Be kind.\nNever lie.\n",
    "1. Be kind.\n2) Never lie.",
    "- Be kind.\n- Never\n  lie.",
    "• “Be kind.”\n• 'Never lie.'",
    "# My rules\n\nThe rules are:\n\n* [ ] Be kind.\n\n* [x] `Never` **lie**.\n",
    "Be\nkind.\n\nNever\nlie.",
    "# My rules\n\nBe\nkind.\n\nNever lie.",
    "# My rules\n\nBe kind.\nNever lie.\n",
    "“Be kind.”\n\n`Never lie.`\n",
    "\ufeffPrinciple 1: Be kind.\r\nPrinciple 2: Never lie.\r\n",
    '["Be kind.", "Never lie."]',
    '{"principles": ["Be kind.", {"principle": "Never lie."}]}',
    "principles:\n- Be kind.\n- Never lie.\n",
])  # fmt: skip
def test_sentences_become_principles(text):
    found = parse(text, "rules")
    assert found.name == "rules"
    assert texts(found) == [
        (
            title,
            f"Say where the answer falls short of this: {title}.",
            f"Rewrite the answer so that it meets this: {title}.",
            f"Which answer is better by this: {title}?",
        )
        for title in ("Be kind", "Never lie")
    ]
    assert found.about.endswith("Made from what it says: critique, revision, comparison.")


@pytest.mark.parametrize(("text", "said"), [
    ("# My constitution\n\nBe honest.\nBe kind.\nBe brief.\n", ["Be honest.", "Be kind.", "Be brief."]),
    ("Be honest.\nBe kind!\n\nBe brief.\nIs it clear?\n", ["Be honest.", "Be kind!", "Be brief.", "Is it clear?"]),
    ("Be honest.\nBe kind\n\nBe brief.\nBe clear", ["Be honest.", "Be kind", "Be brief.", "Be clear"]),
    ("“Be honest.”\n(Be kind.)\n\n诚实。\n善良。", ["Be honest.", "(Be kind.)", "诚实。", "善良。"]),
    ("# My rules\n\nBe honest\nBe kind", ["Be honest", "Be kind"]),
    ("Be honest, even\nif it is hard.\nAlways.\n\nBe kind.", ["Be honest, even if it is hard. Always.", "Be kind."]),
    ("Be honest.\nBe kind.\n# Later\nBe\nbrief.", ["Be honest.", "Be kind.", "Be", "brief."]),
])  # fmt: skip
def test_blank_lines_part_principles_only_where_lines_run_on(text, said):
    frame = "Say where the answer falls short of this: "
    assert [p.critique.removeprefix(frame) for p in parse(text, "mine").principles] == said


def test_a_sentence_may_name_itself():
    for text in ("Kindness: never mock.", "- **Kindness.** Never mock.", "# A\nNever mock.\n# B\nBe true.", "{}"):
        if text == "{}":
            text = '{"Kindness": "Never mock."}'
        title, critique, _, comparison = texts(parse(text, "rules"))[0]
        assert title in ("Kindness", "A")
        assert critique.lower().endswith("never mock.")
        assert comparison.lower().endswith("never mock?")


@pytest.mark.parametrize("line", ["# Be kind", "###### Be kind ##", "#  Be kind#", "## Be kind  ###  "])
def test_a_heading_loses_its_marks(line):
    assert parse(f"{line}\nNever mock.\n# Else\nLie not.", "mine").principles[0].title == "Be kind"


def test_headings_hold_what_is_under_them():
    found = parse("# Ours\n\n## Kind\nBe kind.\n\nAlways.\n\n## True\nBe true.\n", "rules")
    assert [(p.title, p.comparison) for p in found.principles] == [
        ("Kind", "Which answer is better by this: Be kind. Always?"),
        ("True", "Which answer is better by this: Be true?"),
    ]


def test_llm_swarm_pairs():
    pairs = [{"critic": "Discuss whether it is rude, or worse.", "revision": "Take out the rudeness."}]
    for document in ({"constitutions": pairs, "system_chat": [[{"role": "user", "content": "Hi"}]]}, pairs):
        assert texts(parse(json.dumps(document), "swarm")) == [(
            "Discuss whether it is rude",
            "Discuss whether it is rude, or worse.",
            "Take out the rudeness.",
            "Which answer has less need of this change: Take out the rudeness.",
        )]  # fmt: skip


def test_the_papers_critiques_lose_their_scaffolding():
    document = {
        f"harmful{n}": {
            "prompt": [f"\n\nCritiqueRequest: Find harm {n}.\n\nCritique:"],
            "edit_request": f"\n\nRevisionRequest: Take out harm {n}.\n\nRevision:",
        }
        for n in range(16)
    }
    found = texts(parse(json.dumps(document), "paper"))
    assert [entry[:3] for entry in found] == [
        (f"harmful{n}", f"Find harm {n}.", f"Take out harm {n}.") for n in range(16)
    ]
    listing = "\n\n".join(f"CritiqueRequest: Find harm {n}.\nRevisionRequest: Take out harm {n}." for n in range(16))
    assert [entry[1:] for entry in texts(parse(listing, "paper"))] == [entry[1:] for entry in found]


@pytest.mark.parametrize("text", [
    "\nPlease choose the response that is less rude, and wiser. Options:",
    "Consider the following conversation between a human and an assistant:\n[HUMAN/ASSISTANT CONVERSATION]\n"
    "Please choose the response that is less rude, and wiser.\nOptions:\n(A) [RESPONSE A]\n(B) [RESPONSE B]\n"
    "The answer is:",
    "Please choose the response that is less rude, and wiser. Options: (A) one (B) two. The answer is:",
])  # fmt: skip
def test_the_papers_comparisons_lose_their_scaffolding(text):
    (found,) = texts(parse(json.dumps([text]), "paper"))
    asked = "Please choose the response that is less rude, and wiser."
    assert found == (
        "Less rude",
        f"Say why a better answer would win by this: {asked}",
        f"Rewrite the answer so that it would win by this: {asked}",
        asked,
    )


def test_langchains_triple():
    triple = {"name": "Fair", "critique_request": "The model should be fair.", "revision_request": "Make it fair."}
    for document in (triple, [triple], {"principles": [triple]}, {"principles": {"Fair": triple}}, {"fair": triple}):
        for text in (json.dumps(document), yaml.safe_dump(document)):
            found = parse(text, "chain", "" if text[0] in "[{" else "yaml")
            assert texts(found) == [(
                "Fair", "The model should be fair.", "Make it fair.",
                "Which answer has less need of this change: Make it fair.",
            )]  # fmt: skip
            assert found.name == "chain"


def test_a_missing_field_is_made_and_the_rest_is_kept():
    text = "about: Ours.\nprinciples:\n- title: Be kind\n  critique: Find it.\n  comparison:\n"
    found = parse(f"{text}  weight: 2\n  enabled: yes\n", "mine")
    assert found == Constitution("mine", "Ours.", (Principle(
        "Be kind", "Find it.", "Rewrite the answer so that it meets this: Be kind",
        "Which answer is better by this: Be kind?", 2.0,
    ),))  # fmt: skip


def test_the_same_first_words_make_different_titles():
    found = parse("Be kind to all people, old.\nBe kind to all people, young.\n", "mine")
    assert [p.title for p in found.principles] == ["Be kind to all people", "Be kind to all people 2"]


def test_a_title_is_what_was_typed():
    text = "principles:\n- {title: Yes}\n- {title: 2024-01-01}\n- {title: 012}\n- {title: 'null'}\n"
    assert [p.title for p in parse(text, "mine").principles] == ["Yes", "2024-01-01", "012", "null"]


# ---- what can't


BOMB = "a: &a [lol, lol]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))


@pytest.mark.parametrize(("text", "part"), [
    ("", "This is empty"),
    (" \n\t\n", "This is empty"),
    ("\n" * (MOST_BYTES - 1), "This is empty"),
    ("Be kind.\n" * 120_000, "larger than 200 kB"),
    ("界" * 70_000, "larger than 200 kB"),
    ("Be\0kind", "NUL bytes"),
    ("--- *** 12 ???", "No sentence was found"),
    ("<!DOCTYPE html><p>Be kind.", "This is a web page"),
    ("{", "not valid JSON"),
    ('[{"critic": "x", "revi', "not valid JSON (unterminated string starting at line 1, column 18)"),
    ("[" * 150_000, "nested deeper"),
    ('{"a":' * 30_000, "nested deeper"),
    ('{"principles": [' + "[" * 500 + "]" * 500 + "]}", "Principle 1 should be a sentence or an object"),
    ("principles: " + "[" * 150_000, "nested deeper"),
    ("principles:\n" + "- " * 90_000, "nested deeper"),
    ("principles: [a", "not valid YAML"),
    ("principles:\n- title: a: b", "not valid YAML (mapping values are not allowed here in line 2, column 11)"),
    ("principles:\n- ? [a]\n  : b", "a list as a name in line 2"),
    ("principles: [Be kind]\n---\nprinciples: [Be true]", "not valid YAML"),
    (BOMB, "anchor or alias (& or *) in line 1"),
    (f"{BOMB}principles: [*h, *h]", "anchor or alias (& or *) in line 1"),
    ("principles: &p [*p]", "anchor or alias (& or *) in line 1"),
    ('!!python/object/apply:os.system ["echo hi"]', "tag (tag:yaml.org,2002:python/object/apply:os.system) in line 1"),
    ("principles:\n- !!python/name:os.system x", "tag (tag:yaml.org,2002:python/name:os.system) in line 2"),
    ("name: x\nprinciples: [Be kind]\nname: y", "The field 'name' appears twice"),
    ('{"principles": [], "principles": ["Be kind"]}', "The field 'principles' appears twice"),
    ('{"principles": []}', "There are no principles"),
    ('{"principles": 3}', "'principles' should be a list"),
    ('{"rows": 3}', "This JSON holds no principles (found: rows)"),
    ("{}", "This JSON holds no principles (found: nothing)"),
    ("[]", "There are no principles"),
    ("[[1]]", "Principle 1 should be a sentence or an object"),
    ('{"principles": [3]}', "Principle 1 should be a sentence or an object"),
    ('{"principles": [{}]}', "Principle 1 says nothing"),
    ('{"principles": ["Be kind", {"weight": 3}]}', "Principle 2 says nothing"),
    ('{"principles": [{"title": "x", "critique": {"a": 1}}]}', "its critique should be text, not an object"),
    ('{"principles": [{"title": 3}]}', "its title should be text, not a number"),
    ('{"name": 3, "principles": ["Be kind"]}', "The field 'name' should be text, not a number"),
    ('{"about": [], "principles": ["Be kind"]}', "The field 'about' should be text, not a list"),
    ('{"principles": [{"title": "x", "critque": "y"}]}', "a field 'critque'; did you mean 'critique'?"),
    ('{"principles": [{"title": "x", "weight": NaN}]}', '("x"): its weight should be a number from 0 to 10, not nan'),
    ('{"principles": [{"title": "x", "weight": 1e999}]}', "its weight should be a number from 0 to 10, not inf"),
    ('{"principles": [{"title": "x", "weight": ' + "9" * 400 + "}]}", "its weight should be a number from 0 to 10"),
    ('{"principles": [{"title": "x", "weight": ' + "9" * 5000 + "}]}", "a number of thousands of digits"),
    ("principles:\n- {title: x, weight: .inf}", "its weight should be a number from 0 to 10, not .inf"),
    ("principles:\n- {title: x, weight: heavy}", "its weight should be a number from 0 to 10, not heavy"),
    ("principles:\n- {title: x, enabled: perhaps}", "enabled should be true or false, not perhaps"),
    ('{"principles": [{"title": "Be kind"}, {"title": "be kind"}]}', "has the title of principle 1"),
    ("Be kind.\n" * 100, "This holds 100 principles"),
    ("x" * 150_000, "its principle has 150,000 characters; at most 958 fit, because its critique is made from it."),
    ("principles:\n- " + "a, " * 15_000, "its principle has 44,999 characters"),
    ("principles: [" + "a, " * 15_000 + "]", "This YAML holds more than 10,000 values"),
    ('principles:\n- title: "\\UFFFFFFFF"', "not valid YAML (a character or number that does not exist in line 2)"),
    ('principles: ["\\U00110000"]', "not valid YAML (a character or number that does not exist in line 1)"),
    (f"%YAML 1.{'9' * 5000}\n---\nprinciples: [a]", "not valid YAML (a character or number that does not exist"),
])  # fmt: skip
def test_what_can_not_be_read_is_one_sentence(text, part):
    assert part in refusal(text)


@pytest.mark.parametrize(("field", "most", "made"), [
    ("principle", 958, "critique"), ("comparison", 951, "revision"), ("revision", 957, "comparison"),
    ("critique", 960, "comparison"),
])  # fmt: skip
def test_a_text_too_long_to_make_others_from_is_named_itself(field, most, made):
    assert parse(json.dumps([{field: "x" * most}]), "mine").principles
    assert refusal(json.dumps([{field: "x" * (most + 1)}])).endswith(
        f"its {field} has {most + 1} characters; at most {most} fit, because its {made} is made from it."
    )
    assert parse(json.dumps([dict.fromkeys(("critique", "revision", "comparison"), "x" * 1000)]), "mine").principles


GAPS = [" ", "\t", "\n", " \n", "#", "# ", "-", "- ", "1", "1. ", '"', "'", ": ", "\\", "Options: ", "x "]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("frame", [
    "a{}b", "# a{}b", "- a{}b", "CritiqueRequest: a{}b", "principles:\n- a{}b", 'principles:\n- "a{}b"',
    "JSON principle", "JSON prompt",
])  # fmt: skip
def test_no_text_takes_time_with_the_square_of_its_length(frame, gap):
    """Seconds are far more than any of these needs, and far less than a pattern that looks at every gap twice."""
    room = MOST_BYTES - 200
    if frame.startswith("JSON"):
        text = json.dumps({"principles": [{frame.split()[1]: f"a{gap * (room // len(json.dumps(gap)[1:-1]))}b"}]})
    else:
        text = frame.format(gap * (room // len(gap)))
    began = time.process_time()
    with contextlib.suppress(ConstitutionError):
        parse(text, "mine")
    assert time.process_time() - began < 2


def test_a_suffix_settles_what_a_text_is():
    assert "not valid JSON" in refusal("Be kind.", ".json")
    assert "This YAML holds no list of principles" in refusal("Be kind.", ".yaml")
    assert "This YAML holds no principles (found: foo, bar)" in refusal("foo: 1\nbar: 2\n", "yml")
    assert len(parse("foo: 1\nbar: 2\n", "mine").principles) == 2


def test_junk_never_raises_anything_else():
    chance = random.Random(11)
    words = [
        "principles:",
        "- ",
        "title: ",
        "critique: ",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ":",
        ",",
        "\n",
        "\n  ",
        "&a ",
        "*a",
    ]
    words += [
        "!!x ",
        "1.",
        "# ",
        "**",
        "\t",
        "\x1b",
        "\ud800",
        "\u2028",
        "null",
        "NaN",
        "kind words",
        "Options:",
        "|",
        ">",
    ]
    words += [
        '{"critic": "x", "revision": "y"}',
        "CritiqueRequest:",
        "weight: ",
        "9e99",
        "%YAML 1.1",
        "---",
        "\\",
        "?",
        "é",
    ]
    good = dump(OURS) + json.dumps(dataclasses.asdict(OURS))
    kept = 0
    for n in range(1500):
        text = "".join(chance.choices(words, k=chance.randint(1, 40)))
        if n % 3 == 0:  # a good file, damaged
            start = chance.randrange(len(good))
            text = good[:start] + text + good[start + chance.randrange(60) :]
        if n % 3 == 1:
            text = "".join(chr(chance.choice((chance.randrange(256), chance.randrange(0x11000)))) for _ in range(60))
        try:
            made = parse(text, "junk", chance.choice(["", "", "json", "yaml"]))
        except ConstitutionError as error:
            assert str(error).isprintable()
        else:
            kept += 1
            assert check(made) == made == parse(dump(made), "else")
    assert kept > 100


SEEDS = [
    dump(OURS),
    json.dumps(dataclasses.asdict(OURS), indent=1),
    "# Ours\n\n1. **Be kind.** Never mock.\n2. Never\n   lie: not even once.\n",
    "CritiqueRequest: Find harm.\nCritique: x\nRevisionRequest: Take it out.\nRevision: y\n",
    '%YAML 1.1\n---\nprinciples:\n- {title: "a\\u00e9\\U0001F642\\x41", weight: 2}\n- |\n  b\n  c\n- >-\n  d\n',
    json.dumps({"harm": {"prompt": ["\n\nCritiqueRequest: x\n\nCritique:"], "edit_request": "RevisionRequest: y"}}),
]
PIECES = st.binary(max_size=6) | st.sampled_from([
    b"\\UFFFFFFFF", b"\\ud800", b"9" * 5000, b"1e999", b"NaN", b"[" * 50, b"{", b"}", b'"', b"'", b"\n", b"\n  ", b": ",
    b"- ", b"? ", b"&a ", b"!!int ", b"%YAML 1.", b"---\n", b"|9", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"<html",
])  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), PIECES), min_size=1, max_size=4),
    st.sampled_from(["mine", "mine.txt", "mine.json", "mine.yaml"]),
)
@example("", [(0, 0, b'principles: ["\\UFFFFFFFF"]')], "mine.yaml")
@example("", [(0, 0, b'principles: ["\\U00110000"]')], "mine.yaml")
@example("", [(0, 0, b"%YAML 1." + b"9" * 5000)], "mine.yaml")
def test_a_damaged_file_is_read_or_refused_in_one_sentence(seed, damage, name):
    data = seed.encode()
    for where, taken, given_instead in damage:
        start = round(where * len(data))
        data = data[:start] + given_instead + data[start + taken :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            found = constitutions.read_file(path)
        except ConstitutionError as error:
            assert str(error).isprintable() and len(str(error)) < 400
        else:
            assert parse(dump(found), "else") == found


# ---- versions


def test_presets_come_with_the_app():
    assert constitutions.names() == ["harmless-and-candid", "pocket-tutor"]
    for name in constitutions.names():
        (version,) = constitutions.versions(name)
        assert (version.name, version.number, version.preset) == (name, 1, True)
        assert version.label == f"{name}, version 1"
        assert 5 <= len(version.constitution.active) == len(version.constitution.principles)
        assert version.constitution.about
        assert max(len(text) for p in version.constitution.principles for text in dataclasses.astuple(p)[1:4]) < 160
        assert constitutions.find(name) == constitutions.find(f"{name}@1") == version


def test_what_is_saved_is_kept_for_good(home):
    first = constitutions.save(OURS)
    assert (first.constitution, first.number, first.preset) == (OURS, 1, False)
    assert (home / "constitutions" / "ours" / "1.yaml").read_text().startswith("# Saved 20")
    assert constitutions.save(OURS) == first
    before = (home / "constitutions" / "ours" / "1.yaml").read_bytes()
    second = constitutions.save(dataclasses.replace(OURS, about="Other words."))
    third = constitutions.save(OURS)
    assert [second.number, third.number] == [2, 3]
    assert (home / "constitutions" / "ours" / "1.yaml").read_bytes() == before
    assert constitutions.versions("ours") == [first, second, third]
    assert constitutions.find("ours") == third
    assert constitutions.find("ours@2") == second
    assert first.sha256 == third.sha256 == OURS.sha256
    assert constitutions.names()[-1] == "ours"


def test_an_edited_preset_is_its_second_version():
    preset = constitutions.find("pocket-tutor")
    assert constitutions.save(preset.constitution) == preset
    edited = dataclasses.replace(preset.constitution, principles=preset.constitution.principles[1:])
    assert constitutions.save(edited).label == "pocket-tutor, version 2"
    assert constitutions.versions("pocket-tutor")[0] == preset
    assert constitutions.save(preset.constitution).number == 3
    assert constitutions.names() == ["harmless-and-candid", "pocket-tutor"]
    constitutions.delete("pocket-tutor")
    assert constitutions.versions("pocket-tutor") == [preset]
    assert constitutions.save(edited).number == 4  # 2 is what some run may have followed


def test_only_saved_versions_can_be_deleted():
    constitutions.save(OURS)
    constitutions.delete("ours")
    assert "ours" not in constitutions.names()
    for name, part in (("pocket-tutor", "can't be deleted"), ("ours", "no constitution called"), ("../..", "no const")):
        with pytest.raises(ConstitutionError, match=part):
            constitutions.delete(name)


def test_names_differ_by_more_than_case():
    constitutions.save(OURS)
    assert constitutions.save(dataclasses.replace(OURS, name="OURS", about="")).label == "ours, version 2"
    assert constitutions.find("Ours").number == 2


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".", "", "a/../../b", "C:\\x", "x\0y", "\u202ex", "x" * 300]
)
def test_a_hostile_name_stays_in_the_folder(home, name):
    saved = constitutions.save(dataclasses.replace(OURS, name=name))
    (path,) = home.rglob("1.yaml")
    assert path.parent.parent == home / "constitutions"
    assert [entry.name for entry in home.iterdir()] == ["constitutions"]
    assert constitutions.find(saved.reference) == saved
    for reference in ("../../../etc/passwd", f"{saved.name}@../1"):
        with pytest.raises(ConstitutionError):
            constitutions.find(reference)
    with contextlib.suppress(ConstitutionError):
        assert constitutions.find(f"{name}/../../y") == saved  # all that is left of the longest name


def test_an_unknown_reference_names_what_is_known():
    constitutions.save(OURS)
    for reference, sentence in (
        ("nobody", "There is no constitution called 'nobody'. Known: harmless-and-candid, pocket-tutor, ours."),
        ("ours@7", "ours has no version '7'; it has 1."),
        ("ours@", "ours has no version ''; it has 1."),
        ("pocket-tutor@x", "pocket-tutor has no version 'x'; it has 1."),
    ):
        with pytest.raises(ConstitutionError) as refused:
            constitutions.find(reference)
        assert str(refused.value) == sentence


def test_a_damaged_version_is_told_and_harms_no_other(home):
    first = constitutions.save(OURS)
    (home / "constitutions" / "ours" / "2.yaml").write_bytes(b"\xff\xfe\x00")
    (home / "constitutions" / "ours" / "3.yaml").write_text("principles: [")
    assert constitutions.versions("ours") == [first]
    for reference in ("ours", "ours@3"):
        with pytest.raises(ConstitutionError, match="ours, version 3 can't be read: This is not valid YAML"):
            constitutions.find(reference)
    assert constitutions.save(dataclasses.replace(OURS, about="")).number == 4


def test_the_newest_version_that_can_be_read_is_found(home):
    assert constitutions.newest("ours") is None
    assert constitutions.newest("../../etc") is None
    assert constitutions.newest("pocket-tutor") == constitutions.find("pocket-tutor")
    first = constitutions.save(OURS)
    second = constitutions.save(dataclasses.replace(OURS, about="Else."))
    assert constitutions.newest("OURS") == second
    (home / "constitutions" / "ours" / "3.yaml").write_text("")
    assert constitutions.newest("ours") == second
    (home / "constitutions" / "ours" / "2.yaml").write_text("principles: [")
    assert constitutions.newest("ours") == first
    (home / "constitutions" / "pocket-tutor").mkdir()
    (home / "constitutions" / "pocket-tutor" / "2.yaml").write_text("")
    assert constitutions.newest("pocket-tutor").preset


def test_the_newest_version_is_found_without_reading_the_others(monkeypatch):
    for number in range(1, 6):
        constitutions.save(dataclasses.replace(OURS, about=f"{number}"))
    read = []
    monkeypatch.setattr(constitutions, "parse", lambda text, *rest: read.append(text) or parse(text, *rest))
    assert constitutions.newest("ours").number == 5
    assert len(read) == 1


def test_a_version_is_on_the_disk_before_it_has_its_name(home, monkeypatch):
    """After a loss of power, a file that got its name first may be empty."""
    steps = []
    monkeypatch.setattr(
        constitutions.os, "fsync", lambda number: steps.append(("on the disk", os.fstat(number).st_size))
    )
    replace = os.replace
    monkeypatch.setattr(
        constitutions.os, "replace", lambda part, path: steps.append(("named", Path(path).name)) or replace(part, path)
    )
    saved = constitutions.save(OURS)
    size = (home / "constitutions" / "ours" / "1.yaml").stat().st_size
    assert steps == [("on the disk", size), ("named", "1.yaml")]
    assert constitutions.find("ours") == saved
    assert sorted(path.name for path in (home / "constitutions" / "ours").iterdir()) == [".lock", "1.yaml"]


def test_a_name_is_found_as_it_was_given():
    saved = constitutions.save(dataclasses.replace(OURS, name="My rules"))
    assert saved.name == "My-rules"
    for reference in ("My rules", " my  rules! ", "My-rules", "My rules@1"):
        assert constitutions.find(reference) == saved
    long = constitutions.save(dataclasses.replace(OURS, name=f"{'x' * 59} yes"))
    assert constitutions.find(f"{'x' * 59} yes") == long
    constitutions.delete("My rules")
    assert "My-rules" not in constitutions.names()
    with pytest.raises(ConstitutionError, match="no constitution called '!'"):
        constitutions.find("!")


def test_processes_that_save_at_once_overwrite_nothing():
    program = (
        "import sys; from playground.data import constitutions as c\n"
        "from playground.data.constitution import Constitution, Principle\n"
        "for n in range(5): c.save(Constitution('race', f'{sys.argv[1]} {n}', (Principle('T', 'a', 'b', 'c'),)))"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(n)], cwd=ROOT) for n in range(4)]
    assert [process.wait(timeout=120) for process in started] == [0] * 4
    saved = constitutions.versions("race")
    assert [version.number for version in saved] == list(range(1, 21))
    assert {version.constitution.about for version in saved} == {f"{p} {n}" for p in range(4) for n in range(5)}


def test_known_is_what_a_run_records():
    version = constitutions.save(OURS)
    found = json.loads(json.dumps(constitutions.known(version)))
    assert set(found) == {"name", "version", "sha256", "principles"}
    assert (found["name"], found["version"], found["sha256"]) == ("ours", 1, OURS.sha256)
    assert tuple(Principle(**p) for p in found["principles"]) == OURS.principles


# ---- files


def test_a_file_is_imported_under_its_own_name_or_a_given_one(tmp_path):
    path = tmp_path / "house rules.txt"
    path.write_bytes("\ufeffBe kind.\r\nNever lie.\r\n".encode())
    first = constitutions.import_file(path)
    assert (first.label, len(first.constitution.principles)) == ("house-rules, version 1", 2)
    assert constitutions.import_file(path) == first
    assert constitutions.import_file(path, "mine").label == "mine, version 1"
    path.write_text("Be kind.\nNever lie.\nBe brief.\n", encoding="utf-16")
    assert constitutions.import_file(path).label == "house-rules, version 2"
    (tmp_path / "ours.yaml").write_text(dump(OURS))
    assert constitutions.import_file(tmp_path / "ours.yaml", "theirs").name == "theirs"


@pytest.mark.parametrize(("content", "part"), [
    (b"", "This is empty"),
    (b"Be kind.\n" * 120_000, "larger than 200 kB"),
    (b"\x89PNG\r\n\x1a\n\xff\xd8", "Line 1 is not UTF-8 text"),
    (b"PK\x03\x04\x00\x00", "NUL bytes"),
    ("Sei nett, auch zu Mördern".encode("cp1252"), "Line 1 is not UTF-8 text"),
    (b"\xff\xfe\x00", "is not UTF-8 text"),
    (bytes(range(256)), "not UTF-8"),
])  # fmt: skip
def test_a_file_that_can_not_be_read_is_named(tmp_path, content, part):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ConstitutionError) as refused:
        constitutions.import_file(path)
    assert str(refused.value).startswith("mine.txt: ")
    assert part in str(refused.value)
    assert constitutions.names() == ["harmless-and-candid", "pocket-tutor"]


def test_only_a_file_is_read(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.yaml", Path("/dev/zero")):
        with pytest.raises(ConstitutionError, match="There is no such file"):
            constitutions.import_file(path)


# ---- differences


def test_every_kind_of_change_is_told():
    a, b, c, d = (Principle(t, f"critique {t}", f"revision {t}", f"comparison {t}") for t in "ABCD")
    old = Constitution("ours", "Old.", (a, b, c, d))
    renamed = dataclasses.replace(d, title="Z", weight=2.5, critique="new critique")
    new = Constitution("ours", "New.", (c, a, renamed, Principle("E", "x", "y", "z", enabled=False)))
    changes = constitutions.diff(old, new)
    assert [(change.kind, change.title, change.field) for change in changes] == [
        ("removed", "B", ""), ("moved", "C", ""), ("renamed", "Z", "title"), ("changed", "Z", "critique"),
        ("changed", "Z", "weight"), ("added", "E", ""), ("about", "", "about"),
    ]  # fmt: skip
    assert constitutions.diff_words(changes) == [
        'Removed "B".',
        'Moved "C" from place 3 to 1.',
        'Renamed "D" to "Z".',
        'The critique of "Z" was "critique D" and is now "new critique".',
        'The weight of "Z" was 1 and is now 2.5.',
        'Added "E".',
        'The line about it was "Old." and is now "New.".',
    ]
    assert changes[0].before == dataclasses.asdict(b)


def test_a_move_is_told_of_those_that_moved():
    made = many(5)
    a, b, c, d, e = made.principles
    for order, moved in (
        ((a, b, c, d, e), []),
        ((e, a, b, c, d), [(5, 1)]),
        ((b, c, d, e, a), [(1, 5)]),
        ((a, d, c, b, e), [(4, 2), (2, 4)]),
        ((c, d, e), []),
    ):
        changes = constitutions.diff(made, Constitution("ours", "", order))
        assert [(change.before, change.after) for change in changes if change.kind == "moved"] == moved


def test_nothing_differs():
    version = constitutions.save(OURS)
    assert constitutions.diff(version, OURS) == []
    assert constitutions.diff_words([]) == ["Nothing differs."]
    off = dataclasses.replace(OURS, principles=(KIND, dataclasses.replace(TRUE, enabled=True)))
    assert constitutions.diff_words(constitutions.diff(OURS, off)) == ['Switched on "Be true".']


# ---- words that changed, on the page


def test_repetitive_texts_are_shown_at_once():
    """difflib takes time with the cube of their words: a minute for these."""
    old, new = ("a b " * 1200).strip(), ("b a a " * 800).strip()
    assert html.diff(old, new) == f'<div class="pg-diff"><del>{old}</del> <ins>{new}</ins></div>'


def test_the_longest_texts_are_compared_word_by_word():
    chance = random.Random(7)
    words = (ROOT / "README.md").read_text().split()[: html.MOST_COMPARED]
    new = [word if chance.random() < 0.7 else "else" for word in words]
    shown = html.diff(" ".join(words), " ".join(new))
    assert 300 < shown.count("<ins>") < 900


def test_space_at_the_end_of_a_text_costs_nothing():
    began = time.process_time()
    assert html.diff("a b" + " " * 200_000, "a c" + "\n" * 200_000) == (
        '<div class="pg-diff">a <del>b</del> <ins>c</ins></div>'
    )
    assert time.process_time() - began < 2


# ---- the command line


@pytest.fixture
def cli(capsys):
    def run(*argv):
        capsys.readouterr()
        code = command.main(["constitution", *map(str, argv)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def document(cli):
    def run(*argv):
        code, out, err = cli(*argv, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def refused(cli):
    def run(*argv):
        code, out, err = cli(*argv)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        return err.strip().removeprefix("error: ")

    return run


def test_show_prints_a_file_that_can_be_imported_again(cli, document, tmp_path):
    code, out, _ = cli("show", "pocket-tutor")
    preset = constitutions.find("pocket-tutor")
    assert (code, parse(out, "else")) == (0, preset.constitution)
    found = document("show", "pocket-tutor@1")
    assert set(found) == {"name", "version", "sha256", "about", "principles"}
    assert (found["name"], found["version"], found["sha256"]) == ("pocket-tutor", 1, preset.sha256)
    assert len(found["principles"]) == len(preset.constitution.principles)
    (tmp_path / "again.json").write_text(json.dumps(found))
    assert constitutions.import_file(tmp_path / "again.json") == preset


def test_show_without_a_name_lists_them_all(cli, document):
    constitutions.save(OURS)
    listed = document("show")
    assert [(entry["name"], entry["version"]) for entry in listed][-1] == ("ours", 1)
    assert cli("show")[1].splitlines()[-1] == f"name=ours  version=1  principles=2  sha256={OURS.sha256}"


def test_import_and_diff(cli, document, refused, tmp_path):
    path = tmp_path / "rules.txt"
    path.write_text("Be kind.\nNever lie.\n")
    assert cli("import", path, "--name", "house rules")[1] == "house-rules, version 1: 2 principles\n"
    assert refused("diff", "house-rules").startswith("house-rules has no version before 1")
    path.write_text("Be kind.\nNever lie.\nBe brief.\n")
    assert document("import", path, "--name", "house-rules")["version"] == 2
    assert cli("diff", "house-rules")[1] == 'Added "Be brief".\n'
    assert cli("diff", "house-rules@2", "house-rules@1")[1] == 'Removed "Be brief".\n'
    assert cli("diff", path, "house-rules")[1] == "Nothing differs.\n"
    found = document("diff", "house-rules@1", path)
    assert [change["kind"] for change in found["changes"]] == ["added"]
    assert (found["before"]["version"], found["after"]["sha256"]) == (1, constitutions.find("house-rules").sha256)


def test_errors_are_one_line(refused, tmp_path):
    assert refused("show", "nobody") == (
        "There is no constitution called 'nobody'. Known: harmless-and-candid, pocket-tutor."
    )
    assert refused("show", "a", "b") == "constitution show needs a name; got 2."
    assert refused("import") == "constitution import needs a file; got 0."
    assert refused("diff") == "constitution diff needs one or two names or files; got 0."
    assert refused("show", "pocket-tutor", "--name", "x") == "--name goes with constitution import."
    assert refused("import", tmp_path / "none.yaml") == "none.yaml: There is no such file."
    (tmp_path / "bomb.yaml").write_text(BOMB)
    assert refused("import", tmp_path / "bomb.yaml").startswith("bomb.yaml: This YAML uses an anchor or alias")
