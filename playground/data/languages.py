"""Which languages rows are written in, guessed from a sample."""

import functools
from collections import Counter
from typing import Any

from playground.data.texts import texts
from playground.statistics import thin

MOST = 1000  # rows looked at, evenly spread
READ = 500  # characters of a row
LEAST = 20  # letters; in fewer, every language looks like some other
SURE = 0.8
UNSURE = "not sure"
NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def languages(rows: list[Any]) -> list[tuple[str, int]]:
    """(language, rows), most frequent first, of at most a thousand rows; short texts and mixtures are "not sure"."""
    counts = Counter(_language(" ".join(texts(rows[i]))[:READ]) for i in thin(len(rows), MOST))
    return sorted(counts.items(), key=lambda item: (item[0] == UNSURE, -item[1], item[0]))


def language_words(found: list[tuple[str, int]]) -> str:
    """The three most frequent languages in a sentence."""
    seen = sum(rows for _, rows in found)
    first = [f"{rows / seen:.0%} {name}" for name, rows in found[:3]]
    rest = 1 - sum(rows for _, rows in found[:3]) / seen
    return f"Languages, guessed from {seen:,} rows: {', '.join(first + ([f'{rest:.0%} others'] if rest else []))}."


def _language(text: str) -> str:
    if sum(map(str.isalpha, text)) < LEAST:
        return UNSURE
    code, sure = _identifier().classify(text)
    return NAMES.get(code, code) if sure >= SURE else UNSURE


@functools.lru_cache(maxsize=1)
def _identifier() -> Any:
    """py3langid's model, with confidences from 0 to 1; it takes most of a second to open."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
