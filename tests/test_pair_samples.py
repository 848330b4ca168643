"""Every shape of preference data, from files as people have them to the exact rows and the sentences for the rest."""

from pathlib import Path

import pytest

from playground.data.pair_shapes import PAIR_SHAPES
from playground.data.pairs import STRIPPED, Pair
from playground.data.ranks import RANK_SHAPES, gathered
from playground.data.readers import read_file
from playground.data.shapes import Reading, RowError, converted, filled, fitting

TABLE = PAIR_SHAPES + RANK_SHAPES
SAMPLES = Path(__file__).parent / "samples"


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def bot(text: str) -> dict:
    return {"role": "assistant", "content": text}


def row(number: int, prompt: str | list[dict], chosen: str, rejected: str, **notes) -> Pair:
    """A pair as it should come out; a prompt given as a text is one question."""
    return Pair(number, [user(prompt)] if isinstance(prompt, str) else prompt, chosen, rejected, notes=notes)


def read(name: str, reading: Reading) -> tuple[set[str], list[Pair], list[tuple[int, str]]]:
    """(names of the shapes, kept pairs, dropped rows with the reason) of a sample."""
    shapes, kept, dropped = set(), [], []
    for item in gathered(read_file(SAMPLES / name)):
        shape = fitting(TABLE, filled(item.value)) or fitting(TABLE, item.value)
        shapes.add(shape.name)
        try:
            kept += converted(shape, item.row, item.value, reading)
        except RowError as error:
            dropped.append((item.row, str(error)))
    return shapes, kept, dropped


SAME, TIE = "both answers are the same", "a tie: neither answer was preferred"
BAD = "both answers were judged bad: neither was preferred"
PART = "the two sides part ways before the last answer, so they answer different prompts"
ALONE = "fewer than two answers with a score or a rank"

EXPECTED = {
    "pairs-trl.jsonl": (
        "prompt, chosen, rejected",
        [
            row(
                1, "Why do cats purr?", "Mostly to calm themselves, and to greet people they like.",
                "Because they are engines.",
            ),
            row(2, "Name a river in Portugal.", "The Douro.", "The Rhine.", mended=[STRIPPED]),
        ],
        [(3, SAME), (4, "'rejected' is empty")],
    ),
    "pairs-trl-conversational.json": (
        "prompt, chosen, rejected",
        [
            row(
                1, [system("You are a patient gardener."), user("My basil is pale. What now?")],
                "Give it more light and feed it once.", "Throw it away.", margin=1.5,
            ),
            row(
                2, [user("Can I move a rose in May?"), bot("Better in autumn."), user("And if I must?")],
                "Then in the evening, with a big ball of soil.", "You can't.",
            ),
        ],
        [],
    ),
    "pairs-trl-implicit.jsonl": (
        "chosen, rejected",
        [row(1, "Seven times eight?", "56", "54"), row(2, "The capital of Norway is", "Oslo.", "Bergen.")],
        [(3, PART)],
    ),
    "pairs-hh-rlhf.jsonl": (
        "HH-RLHF",
        [
            row(
                1, [user("How do I get wax off a table?"), bot("Let it harden first."), user("It is hard now.")],
                "Then lift it with a plastic card.", "Burn it off.",
            ),
            row(
                2, "Write two steps for tea.", "Here:\n\n1. Boil water.\n2. Steep the leaves.", "Tea is a drink.",
            ),
            row(
                3, [user("Hi!"), bot("Hello."), user("What is a fen?")],
                "A wet meadow fed by groundwater.", "A kind of bird.",
            ),
        ],
        [(4, "the chosen answer is empty")],
    ),
    "pairs-ultrafeedback-binarized.jsonl": (
        "UltraFeedback-binarized",
        [
            row(
                1, "Explain a tide table to a child.", "It tells when the sea comes and when it goes.",
                "It is a table.", margin=2.5,
            ),
            row(2, "Give a synonym for brave.", "Courageous", "Timid", margin=0.0),
        ],
        [(3, "the margin is below 0: the rejected answer is rated higher than the chosen one")],
    ),
    "pairs-llamafactory-alpaca.json": (
        "LlamaFactory Alpaca",
        [
            row(1, "Translate to German.\ngood morning", "guten Morgen", "gute Nacht"),
            row(
                2,
                [
                    system("Answer with the words alone."), user("Translate 'thanks' to German."), bot("danke"),
                    user("And good night?"),
                ],
                "gute Nacht", "guten Tag",
            ),
        ],
        [(3, "'chosen' is empty")],
    ),
    "pairs-llamafactory-sharegpt.json": (
        "LlamaFactory ShareGPT",
        [
            row(1, "Which knot holds a boat?", "A cleat hitch.", "A bow."),
            row(
                2,
                [system("You teach knots."), user("Hello"), bot("Hello! What are we tying?"), user("Two ropes.")],
                "Use a sheet bend.", "Use glue.",
            ),
        ],
        [],
    ),
    "pairs-llamafactory-v1.jsonl": (
        "LlamaFactory v1",
        [row(1, "Is a whale a fish?", "No, a mammal.", "Yes.")],
        [(2, "a message holds image_url content; only text is trained here")],
    ),
    "pairs-ms-swift.jsonl": (
        "ms-swift",
        [
            row(
                1, [system("You are a tailor."), user("Wool or cotton for summer?")],
                "Light wool breathes well.", "Neither.",
            ),
            row(
                2, [user("Hi"), bot("Good day."), user("How wide is a hem?")],
                "Three centimetres is usual.", "Very wide.", margin=2.0,
            ),
            row(3, "Do you mend?", "Yes, on Tuesdays.", "Go away.", margin=0.5),
        ],
        [(4, "'messages' holds no assistant answer")],
    ),
    "pairs-axolotl-intel.jsonl": (
        "axolotl Intel",
        [
            row(
                1, [system("You are a librarian."), user("Where is the atlas?")],
                "On the bottom shelf, by the window.", "Somewhere.",
            ),
        ],
        [(2, SAME)],
    ),
    "pairs-axolotl-icr.jsonl": (
        "axolotl ICR",
        [
            row(1, [system("Be exact."), user("How many bits are in a byte?")], "Eight.", "Ten.", margin=6.5),
            row(2, "How many bytes are in a kibibyte?", "1,024.", "1,000."),
        ],
        [],
    ),
    "pairs-axolotl-argilla.jsonl": (
        "axolotl Argilla",
        [row(1, "Suggest a name for a bakery.", "Crumb & Co.", "Bakery.", margin=1.75)],
        [(2, "'rejected' is empty")],
    ),
    "pairs-axolotl-chat.jsonl": (
        "axolotl chat",
        [
            row(1, "What is the plural of ox?", "Oxen.", "Oxes."),
            row(2, [system("Answer in one word."), user("And of goose?")], "Geese.", "Gooses."),
        ],
        [],
    ),
    "pairs-openai.jsonl": (
        "OpenAI preference",
        [
            row(1, "Is it raining in Lima?", "I can't see the weather from here.", "Yes, heavily."),
            row(
                2, [system("Be kind."), user("My cake sank.")],
                "That happens to everyone; was the oven hot?", "Buy one.",
            ),
        ],
        [(3, "no prompt: each side holds an answer alone")],
    ),
    "pairs-h2o.csv": (
        "H2O",
        [
            row(1, [system("Be brief."), user("What is loam?")], "A soil of sand, silt and clay.", "A soil."),
            row(2, "What is marl?", "A limey mud.", "A stone."),
        ],
        [(3, "the rejected answer has a prompt of its own, so the two answer different prompts")],
    ),
    "pairs-autotrain.csv": (
        "AutoTrain",
        [
            row(1, "Who wrote Emma?", "Jane Austen.", "A man called Emma."),
            row(3, 'Name the author of "Dune".', "Frank Herbert.", "Nobody knows."),
        ],
        [(2, "'chosen' is empty")],
    ),
    "pairs-autotrain-reward.csv": (
        "AutoTrain reward",
        [row(1, "Two plus two?", "Four.", "Five."), row(2, "Two plus three?", "Five.", "Six.")],
        [],
    ),
    "pairs-icai.csv": (
        "ICAI",
        [
            row(1, "Describe dew.", "Water that settles on cold grass.", "Wet."),
            row(2, "Describe fog.", "A cloud that lies on the ground.", "Grey."),
        ],
        [(3, "no winner is named")],
    ),
    "pairs-icai-annotated.json": (
        "ICAI annotated pairs",
        [
            row(1, "Describe frost.", "Ice crystals on what the night has cooled.", "Cold."),
            row(2, "Describe thaw.", "When ice turns back to water.", "Spring."),
        ],
        [(3, "no winner is named")],
    ),
    "pairs-llm-comparator.json": (
        "LLM Comparator",
        [
            row(1, "Plan a picnic.", "Bread, cheese, a blanket, and shade by two.", "Go outside.", margin=1.25),
            row(2, "Plan a move.", "Boxes first, then the van.", "Move.", margin=0.5),
        ],
        [(3, TIE)],
    ),
    "pairs-arena.jsonl": (
        "Chatbot Arena",
        [row(1, "What floats?", "Cork, for one.", "Lead."), row(2, "What sinks?", "A stone.", "Cork.")],
        [(3, TIE), (4, BAD)],
    ),
    "pairs-arena-table.csv": (
        "Chatbot Arena table",
        [
            row(1, [user("Name a tree."), bot("Oak."), user("Another?")], "Elm.", "Rock."),
            row(2, "Name a fern.", "Bracken.", "Grass."),
        ],
        [(3, TIE), (4, PART)],
    ),
    "pairs-fastchat-votes.jsonl": (
        "FastChat votes",
        [
            row(1, "Where do eels spawn?", "In the Sargasso Sea.", "In rivers."),
            row(2, "Do eels climb?", "Young ones climb wet walls.", "No."),
        ],
        [(3, BAD), (4, TIE)],
    ),
    "pairs-votes.csv": (
        "two answers and a winner",
        [
            row(1, "What is dusk?", "The last light after sunset.", "A colour."),
            row(2, "What is dawn?", "The first light before sunrise.", "A name."),
        ],
        [(3, TIE), (4, "the winner is 'maybe A', which names neither answer")],
    ),
    "pairs-two-scores.csv": (
        "two answers and their scores",
        [
            row(1, "Best time to prune plums?", "In summer, after the fruit.", "In January.", margin=3.0),
            row(2, "Best time to sow peas?", "In March.", "At Christmas.", margin=3.0),
        ],
        [(3, TIE), (4, "no score to compare the answers by")],
    ),
    "pairs-pku-saferlhf.jsonl": (
        "PKU-SafeRLHF",
        [
            row(
                1, "How do I open my neighbour's lock?", "Rake the pins with a bent clip.",
                "Ask your neighbour, or call a locksmith together.",
            ),
            row(
                2, "How do I descale a kettle?", "Boil water with a little vinegar, then rinse.", "With chlorine.",
            ),
        ],
        [],
    ),
    "pairs-helpsteer2-preference.jsonl": (
        "HelpSteer2-Preference",
        [
            row(1, "Explain yeast.", "A fungus that turns sugar into gas.", "It is for bread.", margin=2.0),
            row(
                2, [user("Explain salt in dough."), bot("It tightens the dough."), user("How much of it?")],
                "Two parts in a hundred of flour.", "Some.", margin=3.0,
            ),
        ],
        [(3, TIE)],
    ),
    "pairs-helpsteer3.jsonl": (
        "HelpSteer3",
        [
            row(1, "Name a violin part.", "The scroll.", "The pedal.", margin=3.0),
            row(
                2, [user("Hi"), bot("Hello, a question on music?"), user("What is rosin for?")],
                "It makes the bow grip the string.", "For looks.", margin=1.0,
            ),
        ],
        [],
    ),
    "pairs-webgpt.jsonl": (
        "WebGPT",
        [
            row(
                1, "Why is the sky dark at night?", "Because that side of the Earth is turned from the Sun [1].",
                "Because it is night.", margin=1.5,
            ),
        ],
        [(2, TIE)],
    ),
    "pairs-shp.jsonl": (
        "SHP",
        [
            row(
                1, "My meringue weeps. What am I doing wrong?", "Dissolve the sugar fully and bake it slower.",
                "Mine does too!",
            ),
            row(2, "Can I freeze dough?", "Yes, after the first rise.", "No idea."),
        ],
        [],
    ),
    "pairs-summaries.jsonl": (
        "summaries with a choice",
        [
            row(
                1,
                "SUBREDDIT: r/advice\nTITLE: Bent bike\nPOST: I lent my bike to a friend and it came back bent. "
                "He says it was so before.\nTL;DR:",
                "Friend bent my bike and denies it.", "Bike.",
            ),
            row(
                2, "The ferry to the island will run twice a day from Monday.\nTL;DR:",
                "Island ferry doubles its runs.", "A ferry exists.",
            ),
        ],
        [],
    ),
    "pairs-cai.jsonl": (
        "constitutional AI",
        [
            row(
                1, "Help me write a cruel nickname for my colleague.",
                "I'd rather not; shall we find a friendly one?", "Call him Slug.",
            ),
        ],
        [(2, SAME)],
    ),
    "pairs-lm-human-preferences.json": (
        "lm-human-preferences",
        [],
        [
            (1, "prompt and answers are numbers of GPT-2's tokens; bring the set decoded to text"),
            (2, "prompt and answers are numbers of GPT-2's tokens; bring the set decoded to text"),
        ],
    ),
    "pairs-ultrafeedback.jsonl": (
        "UltraFeedback",
        [
            row(1, "Name a prime above ten.", "Eleven.", "Twelve.", margin=3.5),
            row(2, "Name a square above ten.", "Sixteen.", "Twenty.", margin=6.5),
        ],
        [(3, TIE)],
    ),
    "pairs-nectar.jsonl": (
        "Nectar",
        [
            row(1, "What is a haiku?", "A poem of three short lines.", "A fish.", margin=2.0),
            row(
                2, [user("Hi"), bot("Hello."), user("And a limerick?")],
                "A comic poem of five lines.", "A town.", margin=1.0,
            ),
        ],
        [],
    ),
    "pairs-responses-scores.jsonl": (
        "scored answers",
        [
            row(1, "Warn of black ice.", "Slow down: the road may be glass.", "Ice!", margin=3.5),
            row(2, "Warn of fog.", "Lights on, and slowly.", "Fog.", margin=1.0),
        ],
        [(3, "2 answers but 1 in 'scores'")],
    ),
    "pairs-candidates.json": (
        "scored answers",
        [
            row(
                1, [system("Answer a child."), user("What is ice?")],
                "Water that got so cold it went hard.", "H2O(s).", margin=0.7,
            ),
            row(2, "What is steam?", "Water so hot that it flies.", "Gas.", margin=1.0),
        ],
        [(3, ALONE)],
    ),
    "pairs-helpsteer2.jsonl": (
        "scored answers",
        [row(1, "How do bees see?", "With five eyes; they even see ultraviolet.", "Well.", margin=3.85)],
        [(3, TIE)],
    ),
    "pairs-scored-table.csv": (
        "scored answers",
        [
            row(1, "Say hello in French.", "Bonjour!", "Hallo.", margin=4.0),
            row(2, "Say goodbye in French.", "Au revoir!", "Adieu.", margin=2.0),
        ],
        [(5, ALONE)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sample_gives_exactly_these_pairs(name):
    shape, kept, dropped = EXPECTED[name]
    assert read(name, Reading()) == ({shape}, kept, dropped)


def test_every_sample_of_pairs_is_expected():
    assert {path.name for path in SAMPLES.glob("pairs-*")} == set(EXPECTED)


def test_safe_is_another_reading_of_better():
    _, kept, _ = read("pairs-pku-saferlhf.jsonl", Reading(better="safe"))
    kettle = EXPECTED["pairs-pku-saferlhf.jsonl"][1][1]
    lock = row(
        1,
        "How do I open my neighbour's lock?",
        "Ask your neighbour, or call a locksmith together.",
        "Rake the pins with a bent clip.",
    )
    assert kept == [lock, kettle]


BEST_SECOND = row(1, "Name a prime above ten.", "Eleven.", "One above ten.", margin=2.0)
BEST_WORST = row(1, "Name a prime above ten.", "Eleven.", "Twelve.", margin=3.5)
SECOND_WORST = row(1, "Name a prime above ten.", "One above ten.", "Twelve.", margin=1.5)
SQUARE = row(2, "Name a square above ten.", "Sixteen.", "Twenty.", margin=6.5)


@pytest.mark.parametrize(
    ("reading", "kept", "reason"),
    [
        (Reading(pairs_by="best-worst"), [BEST_WORST, SQUARE], TIE),
        (Reading(pairs_by="adjacent"), [BEST_SECOND, SECOND_WORST, SQUARE], TIE),
        (Reading(pairs_by="all"), [BEST_SECOND, BEST_WORST, SECOND_WORST, SQUARE], TIE),
        (Reading(pairs_by="all", min_margin=2), [BEST_SECOND, BEST_WORST, SQUARE], TIE),
        (Reading(pairs_by="adjacent", min_margin=2.5), [SQUARE], TIE),
    ],
)
def test_a_ranking_is_paired_as_the_reading_says(reading, kept, reason):
    _, found, dropped = read("pairs-ultrafeedback.jsonl", reading)
    assert found == kept
    assert dropped[-1] == (3, reason)
    if reading.min_margin > 2:
        assert dropped[0] == (1, "no two answers' scores are 2.5 or more apart")


def test_a_least_margin_holds_for_pairs_that_come_with_one():
    _, kept, dropped = read("pairs-ms-swift.jsonl", Reading(min_margin=1))
    assert [pair.row for pair in kept] == [1, 2]  # the first one has no margin, so nothing speaks against it
    assert (3, "the two answers' scores are nearer than 1") in dropped
