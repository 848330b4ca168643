"""What PPO is paid for: a reward run, rules that a program can count, or a weighted sum of both.

Rules let a person try PPO without a reward model, and show on purpose what happens when a reward is not what was meant.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from playground.settings import SettingError
from playground.stages import checks

_BAND = re.compile(r"([0-9]{1,6})\s*(?:-|–|to)\s*([0-9]{1,6})")
MOST_RULES = 12


def length_band(text: str, limit: str) -> float:
    """1 for an answer whose words lie within the band, falling to 0 at its half and at its double."""
    low, high = _band(limit)
    count = checks.words(text)
    if count < low:
        return max(0.0, 2 * count / low - 1)
    return 1.0 if count <= high else max(0.0, 2 - count / high)


def keyword(text: str, limit: str) -> float:
    """0.2 for each time the text occurs, whatever the case, 1 from five times on."""
    return min(1.0, text.casefold().count(limit.casefold()) / 5)


GRADED: dict[str, tuple[str, Callable[[str, Any], float]]] = {
    "length_band": ("1 within so many words (20-60), less outside", length_band),
    "keyword": ("0.2 for each time this text occurs, 1 at most", keyword),
}
KNOWN = (*checks.CHECKS, *GRADED)


def parse_rules(text: str) -> dict[str, Any]:
    """`rule: limit` lines as a mapping; SettingError names the line that can't be read."""
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader) if text.strip() else {}  # texts only: yes is a word here
    except (yaml.YAMLError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise SettingError(f"Rules: line {line} can't be read; write one rule a line, as max_words: 60.") from error
    if not isinstance(found, dict):
        raise SettingError("Rules: write one rule a line, as max_words: 60.")
    if len(found) > MOST_RULES:
        raise SettingError(f"Rules: {len(found)} of them, {MOST_RULES} at most.")
    for name, limit in found.items():
        if name not in KNOWN:
            raise SettingError(f"Rules: there is none called {str(name)[:40]!r}. Known: {', '.join(KNOWN)}.")
        found[name] = _limit(name, limit)
    return found


def _limit(name: str, limit: Any) -> Any:
    """The limit as the rule's own type, or SettingError."""
    text = limit if isinstance(limit, str) else ""
    if name in ("contains", "lacks", "keyword"):
        if not text.strip() or re.search(r"[\ud800-\udfff]", text):  # half a character can't be written to a file
            raise SettingError(f"Rules: {name} needs a text.")
        return text
    if name == "length_band":
        _band(text)
        return text
    if name in ("ends_with_question", "no_lists"):
        if text.casefold() not in ("true", "false"):
            raise SettingError(f"Rules: {name} needs true or false.")
        return text.casefold() == "true"
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise SettingError(f"Rules: {name} needs a whole number.")
    return int(text)


def _band(limit: Any) -> tuple[int, int]:
    match = _BAND.fullmatch(str(limit).strip())
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise SettingError("Rules: length_band needs two numbers of words, as 20-60.")
    return int(match[1]), int(match[2])


def rule_scores(text: str, rules: Mapping[str, Any]) -> dict[str, float]:
    """Each rule's share between 0 and 1."""
    plain = {name: limit for name, limit in rules.items() if name in checks.CHECKS}
    passed = checks.check(text, plain) if plain else {}
    return {
        name: GRADED[name][1](text, limit) if name in GRADED else float(passed[name]) for name, limit in rules.items()
    }


def rule_reward(text: str, rules: Mapping[str, Any]) -> float:
    """The mean share of the rules, all of them together counting once more, laid between −1 and 1.

    Each rule alone shows the way; without the last, an answer that misses one of five would earn nearly the most.
    """
    shares = list(rule_scores(text, rules).values())
    return 2 * (sum(shares) + min(shares)) / (len(shares) + 1) - 1


@dataclass(frozen=True)
class Rewards:
    """What each of B answers is paid: `scores` is what PPO maximises; `raw` the reward run's own scores, if any."""

    scores: list[float]
    raw: list[float]
    rules: list[float]

    @property
    def parts(self) -> list[dict[str, float]]:
        """Each answer's parts by name, for the rollout browser."""
        names = {"reward model": self.raw, "rules": self.rules}
        return [{name: column[i] for name, column in names.items() if column} for i in range(len(self.scores))]


@dataclass(frozen=True)
class Payer:
    """Turns answers into rewards: weight · clipped z-score of the reward run + weight · rules − penalty where no end.

    mean, std: of the reward run's scores over its own training answers (Ziegler et al. 2019 normalise likewise).
    """

    rules: Mapping[str, Any]
    rules_weight: float
    reward_weight: float
    mean: float
    std: float
    clip: float
    missing_eos_penalty: float

    def pay(self, texts: Sequence[str], ended: Sequence[bool], raw: Sequence[float]) -> Rewards:
        """raw: the reward run's scores, or nothing where there is none."""
        by_rules = [rule_reward(text, self.rules) for text in texts] if self.rules else []
        scores = []
        for i, done in enumerate(ended):
            score = 0.0 if done else -self.missing_eos_penalty
            if raw:
                normal = (raw[i] - self.mean) / max(self.std, 1e-6)  # may be NaN, which must not earn the most
                score += self.reward_weight * (min(normal, self.clip) if normal > -self.clip else -self.clip)
            if by_rules:
                score += self.rules_weight * by_rules[i]
            scores.append(score)
        return Rewards(scores, list(raw), by_rules)
