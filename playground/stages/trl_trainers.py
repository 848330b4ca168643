"""TRL's trainers with what a small machine needs: losses over learned tokens only, rows of like length in one batch,
scores read at the end token, held-out means that weigh every row the same.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from playground.data.rendering import Encoded
from playground.data.tokens import EncodedPair
from playground.models.scoring import last_scores, token_scores
from playground.stages.logprobs import learned_tokens

if TYPE_CHECKING:
    from datasets import Dataset as Table


class LengthGroups(torch.utils.data.Sampler[int]):
    """Rows of like length share a batch (on short chats a third less padding), batches in random order.

    The order depends on seed and epoch alone, so that a resumed run sees the rows it would have seen; transformers'
    own sampler draws from the global generator and goes from long to short.
    """

    def __init__(self, lengths: list[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """The trainer says so at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = torch.randperm(len(self), generator=random).tolist()
        pool = 8 * self.batch  # sorted eight batches at a time: alike enough, and no two epochs alike
        pools = [sorted(order[i : i + pool], key=self.lengths.__getitem__) for i in range(0, len(order), pool)]
        rows = [row for rows in pools for row in rows]
        batches = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        full = [batch for batch in batches if len(batch) == self.batch]
        shuffled = [full[i] for i in torch.randperm(len(full), generator=random).tolist()]
        return iter([row for batch in shuffled + batches[len(full) :] for row in batch])


class GroupedRows:
    """For every trainer here: adapters that stay in fp32, the sampler above, and logged means that weigh rows, not
    batches, the same."""

    lengths: list[int]
    args: Any
    model: Any
    _metrics: dict[str, dict[str, list[float]]]

    def __init__(self, model: Any, **options: Any):
        exact = {p: p.data for p in model.parameters() if p.requires_grad}
        self._batch_rows: dict[str, list[int]] = {"train": [], "eval": []}
        super().__init__(model, **options)  # type: ignore[call-arg]
        for parameter, values in exact.items():  # TRL has rounded the adapters of a 4-bit base to bf16
            parameter.data = values

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroups:
        update = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroups(self.lengths, update, self.args.seed)

    def _weigh(self, rows: int) -> None:
        """Notes how many rows the batch holds whose metrics are appended now."""
        mode = "train" if self.model.training else "eval"
        self._batch_rows[mode].append(rows)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        weights = self._batch_rows[mode]
        for name, values in self._metrics[mode].items():
            if len(values) == len(weights):  # TRL would take the plain mean of the batches, the small last one included
                self._metrics[mode][name] = [sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)]
        weights.clear()
        super().log(logs, start_time)  # type: ignore[misc]


class AssistantLossTrainer(GroupedRows, SFTTrainer):
    """TRL's SFTTrainer whose CPU loss runs the LM head on learned positions only (TRL does so where Triton is)."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._weigh(len(inputs["input_ids"]))
        if return_outputs or inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if self.model.training else "eval"
        loss, correct, count = assistant_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        self._metrics[mode]["mean_token_accuracy"].append(correct / max(count, 1))
        if mode == "train":
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss / (max(count, 1) if num_items_in_batch is None else num_items_in_batch)


def assistant_loss(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, int, int]:
    """(summed loss, right guesses, targets): -Σ log p(labels[t+1] | ids[≤t]) over targets that are not -100.

    All inputs (B, T), padded on the right; loss in nats, a scalar with gradient.
    """
    said = learned_tokens(model.get_base_model(), input_ids, attention_mask, labels)
    return -said.logps.sum(), int(said.right.sum()), len(said.logps)


class SoftLabels(GroupedRows):
    """For trainers of pairs: each row's label, the probability that `chosen` is the better one, comes with its batch.

    TRL knows no labels of single rows. For a loss −log σ(d) of margins d, a label p means
    −p·log σ(d) − (1−p)·log σ(−d) = −log σ(d) + (1−p)·d, so a term is added to the loss and nothing is replaced.
    """

    data_collator: Any
    _signature_columns: list[str] | None

    def __init__(self, model: Any, **options: Any):
        super().__init__(model, **options)
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]] = self.data_collator
        self.data_collator = lambda rows: {**collate(rows), "label": torch.tensor([row["label"] for row in rows])}

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        assert self._signature_columns is not None
        if "label" not in self._signature_columns:
            self._signature_columns.append("label")


def doubt(label: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """mean (1−p)·d: what a −log σ(d) loss lacks for labels p below 1. Both (B,), d in nats; a scalar with d's gradient.

    It is the cross-entropy of σ(d) against p (Bai et al. 2022, RL-CAI; Mitchell 2023, conservative DPO).
    """
    return ((1 - label) * margin).mean()


class PairRewardTrainer(SoftLabels, RewardTrainer):
    """TRL's RewardTrainer whose score is read by position at the end token, by the explorer's own function.

    TRL finds the last token that is not the pad token: with pad = eos that is the one before the end.
    """

    def __init__(self, model: Any, **options: Any):
        super().__init__(model, **options)
        self.eval_scores: list[
            tuple[float, float]
        ] = []  # of the last held-out measurement: (chosen, rejected), in order

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        self.eval_scores.clear()
        return super().evaluate(*args, **options)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        mode = "train" if self.model.training else "eval"
        mask = inputs["attention_mask"]
        per_token = token_scores(model, model.get_base_model().score, inputs["input_ids"], mask)
        scores = last_scores(per_token, mask)  # (2B,): chosen, then rejected
        chosen, rejected = scores.chunk(2)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        if (inputs["label"] < 1).any():
            loss = loss + doubt(inputs["label"], chosen - rejected)
        if self.args.center_rewards_coefficient:
            loss = loss + self.args.center_rewards_coefficient * (chosen + rejected).square().mean()
        if mode == "train":
            self._total_train_tokens += int(mask.sum())
        seen = scores.detach()
        values = {
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
            "mean_reward": seen.mean(),
            "min_reward": seen.min(),
            "max_reward": seen.max(),
        }
        for name, value in values.items():
            self._metrics[mode][name].append(value.item())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        self._weigh(len(chosen))
        if mode == "eval":
            self.eval_scores += zip(chosen.tolist(), rejected.tolist(), strict=True)
        return (loss, {"logits": scores[:, None]}) if return_outputs else loss


class PairDPOTrainer(SoftLabels, DPOTrainer):
    """TRL's DPOTrainer on rows that are tokenized already, with reference log-probs that were computed beforehand.

    It builds no reference adapter: the policy before its first update is the reference.
    """

    def __init__(self, model: Any, **options: Any):
        super().__init__(model, ref_model=None, **options)
        self.precompute_ref_logps = True
        self._details = True  # entropy and the like, which the reference pass has no use for
        if "ref" in model.peft_config:
            model.delete_adapter("ref")
        base = model.get_base_model()
        if base.device.type == "cpu":
            self._whole_forward = base.forward
            base.forward = self._learned_forward

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _learned_forward(self, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        """What TRL's fused head returns, from learned positions alone; without Triton, its own takes every position."""
        if not fused_lm_head:
            return self._whole_forward(*args, **inputs)
        ids, mask, labels = (inputs[name] for name in ("input_ids", "attention_mask", "labels"))
        said = learned_tokens(self.model.get_base_model(), ids, mask, labels, details=self._details)
        fields = {
            "log_probs": said.logps,
            "entropy": said.entropy,
            "mean_logits": said.mean_logits,
            "is_top1": said.right,
        }
        return FusedCausalLMOutput(label_mask=said.mask, **{name: said.spread(value) for name, value in fields.items()})

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        label = inputs["label"]
        known = {name: tensor for name, tensor in inputs.items() if name != "label"}  # the model would be given it
        said: list[Any] = []  # TRL keeps the margins to itself, so they are taken from the same forward pass
        hook = model.register_forward_hook(lambda module, given, output: said.append(output))
        try:
            found = super().compute_loss(model, known, return_outputs, num_items_in_batch)
        finally:
            hook.remove()
        self._weigh(len(label))
        if not (label < 1).any():
            return found
        chosen, rejected = said[0].log_probs.sum(1).chunk(2)
        moved = (chosen - known["ref_chosen_logps"]) - (rejected - known["ref_rejected_logps"])
        missing = doubt(label, self.beta * moved)
        return (found[0] + missing, found[1]) if return_outputs else found + missing

    @torch.no_grad()
    def sequence_logps(self, rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
        """(chosen, rejected) for each row: Σ log p of the answer's tokens under the model as it is now, in nats."""
        batch = self.data_collator([{k: v for k, v in row.items() if not k.startswith("ref_")} for row in rows])
        batch = self._prepare_inputs(batch)
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
        self._details = False
        with self.accelerator.autocast():
            said = self.model(**asked, use_cache=False, fused_lm_head=True)
        self._details = True
        chosen, rejected = said.log_probs.sum(1).chunk(2)
        return list(zip(chosen.tolist(), rejected.tolist(), strict=True))


def conversations(rows: list[Encoded]) -> "Table":
    """Our tokens and labels as the dataset TRL takes; it finds them tokenized and changes nothing."""
    return table({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})


def whole_pairs(rows: list[EncodedPair]) -> "Table":
    """Both sides with their prompt, as RewardTrainer takes them."""
    sides = {f"{side}_ids": [row.prompt + getattr(row, side) for row in rows] for side in ("chosen", "rejected")}
    return table({**sides, "label": [row.label for row in rows]})


def split_pairs(rows: list[EncodedPair], reference: list[tuple[float, float]]) -> "Table":
    """Prompt and answers apart with the reference's log-probs, as DPOTrainer takes them."""
    columns = {f"{part}_ids": [getattr(row, part) for row in rows] for part in ("prompt", "chosen", "rejected")}
    chosen, rejected = zip(*reference, strict=True)
    known = {"ref_chosen_logps": list(chosen), "ref_rejected_logps": list(rejected)}
    return table({**columns, **known, "label": [row.label for row in rows]})


def table(columns: dict[str, list[Any]]) -> "Table":
    """A dataset in memory, without progress bars in the log."""
    from datasets import Dataset as Table
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return Table.from_dict(columns)


def sft_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any], rows: list[list[Encoded]]
) -> AssistantLossTrainer:
    """A trainer for conversations; rows are (train, held-out)."""
    trainer = AssistantLossTrainer(
        model,
        args=SFTConfig(**arguments),
        processing_class=tokenizer,
        train_dataset=conversations(rows[0]),
        eval_dataset=conversations(rows[1]) if rows[1] else None,
    )
    trainer.lengths = [len(row.ids) for row in rows[0]]
    return trainer


def reward_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any], rows: list[list[EncodedPair]]
) -> PairRewardTrainer:
    """A trainer for scores; rows are (train, held-out) pairs."""
    trainer = PairRewardTrainer(
        model,
        args=RewardConfig(**{**arguments, "max_length": None}),
        processing_class=tokenizer,
        train_dataset=whole_pairs(rows[0]),
        eval_dataset=whole_pairs(rows[1]) if rows[1] else None,
    )
    trainer.lengths = [len(row) for row in rows[0]]
    return trainer


def dpo_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any], rows: list[list[EncodedPair]]
) -> PairDPOTrainer:
    """A trainer for preferences without a reward model; rows are (train, held-out) pairs. Its reference log-probs are
    zeros until `set_reference`."""
    trainer = PairDPOTrainer(
        model,
        args=DPOConfig(**{**arguments, "max_length": None}),
        processing_class=tokenizer,
        train_dataset=split_pairs(rows[0], [(0.0, 0.0)] * len(rows[0])),
        eval_dataset=split_pairs(rows[1], [(0.0, 0.0)] * len(rows[1])) if rows[1] else None,
    )
    trainer.lengths = [len(row) for row in rows[0]]
    return trainer


def set_reference(
    trainer: PairDPOTrainer, rows: list[list[EncodedPair]], reference: list[list[tuple[float, float]]]
) -> None:
    """Gives the trainer the reference's (chosen, rejected) log-probs of its (train, held-out) rows."""
    trainer.train_dataset = split_pairs(rows[0], reference[0])
    if rows[1]:
        trainer.eval_dataset = split_pairs(rows[1], reference[1])
