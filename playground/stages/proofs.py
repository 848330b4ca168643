"""Step-0 proofs: what must be true before the first update, measured on the very rows and model of the run.

Peers train blind through a wrong template, a missing end token or a reference that is not the policy. Each proof is
written to the run folder and shown as a tick; one that fails stops the run with its reason.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.rendering import Encoded, Renderer
from playground.data.tokens import EncodedPair
from playground.runs.run import Run
from playground.stages.inputs import StageError, parent_of


@dataclass(frozen=True)
class Proof:
    """One thing that must hold before training; `words` say what was found, or why it fails."""

    name: str
    passed: bool
    words: str


def prove(run: Run, *proofs: Proof) -> None:
    """Adds the proofs to the run folder; StageError with the reason of the first that fails."""
    run.write_proofs([*run.proofs(), *map(dataclasses.asdict, proofs)])
    if failed := next((proof for proof in proofs if not proof.passed), None):
        raise StageError(f"{failed.name}: {failed.words}")


def same_model(run: Run, renderer: Renderer) -> Proof:
    """Base and chat template are the ones that the parent was trained with."""
    name = "The base and the template match the parent's"
    parent = parent_of(run)
    if parent is None:
        return Proof("The base is the one that was asked for", True, "Same weights, by their hash; no parent run.")
    if parent.request["base_identity"] != run.request["base_identity"]:
        return Proof(name, False, f"{parent.name} was trained on {parent.request['base_title']}.")
    saved = parent.adapter / "chat_template.jinja"
    if not saved.exists() or saved.read_text(encoding="utf-8") != renderer.template:
        return Proof(name, False, f"{parent.name} was trained with another chat template; train it again.")
    return Proof(name, True, f"As in {parent.name}.")


def ends_learned(rows: Sequence[Encoded | EncodedPair], renderer: Renderer) -> Proof:
    """Every answer's last learned token is one that ends an answer, or the row was cut before it."""
    name = "The end token is inside the labels"
    ends = set(renderer.ends.values())
    last = [token for row in rows for token in _last_tokens(row)]
    missing = sum(token not in ends for token in last)
    words = " or ".join(sorted(renderer.ends)) or "(none)"
    if missing == len(last):
        return Proof(name, False, f"No answer ends with {words}, so the model would never learn to stop.")
    if missing and isinstance(rows[0], EncodedPair):
        return Proof(name, False, f"{missing} of {len(last)} answers do not end with {words}.")
    cut = f"; {missing} longer rows are cut before it" if missing else ""
    return Proof(name, True, f"{len(last) - missing} of {len(last)} answers end with {words}{cut}.")


def _last_tokens(row: Encoded | EncodedPair) -> list[int]:
    if isinstance(row, EncodedPair):
        return [row.chosen[-1], row.rejected[-1]]
    learned = [token for token, learn in zip(row.ids, row.learned, strict=True) if learn]
    return learned[-1:]


def sides_differ(rows: Sequence[EncodedPair]) -> Proof:
    """No pair is the same twice once it is tokens."""
    same = sum(row.chosen == row.rejected for row in rows)
    count = "1 pair is" if same == 1 else f"{same} pairs are"
    words = f"{count} equal once they are tokens." if same else f"In all {len(rows)} pairs, as tokens."
    return Proof("Both sides differ", not same, words)


def only_adapters(model: Any) -> Proof:
    """Nothing but LoRA weights and a score head is trained."""
    others = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and ".lora_" not in name and ".score." not in name
    ]
    words = f"{others[0]} would be trained as well." if others else "Every weight of the base is frozen."
    return Proof("Only the adapter is trained", not others, words)


def tolerance(device: str) -> float:
    """How far a sum of a few hundred log-probs may be off: half precision rounds each of them."""
    return 1e-4 if device == "cpu" else 2e-2


def close(name: str, found: float, expected: float, tolerance: float, meaning: str) -> Proof:
    """A number is what theory says it must be."""
    words = f"{found:.6f}, expected {expected:.6f} ± {tolerance:g}: {meaning}"
    return Proof(name, abs(found - expected) <= tolerance, words)
