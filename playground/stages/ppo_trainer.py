"""One PPO iteration on one shared base: rollouts, scores, advantages, several epochs of clipped updates.

Policy, reference, reward model and critic are adapters and small heads on the same frozen weights; a role is switched
on for a forward pass and its backward, never between them. Nothing random is carried from one iteration to the next:
sampling and shuffling depend on seed and iteration alone, so a resumed run goes the way it would have gone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from playground.data.rendering import Renderer
from playground.models.adapters import Adapters
from playground.models.decode import Sampling
from playground.models.loading import eos_ids
from playground.models.memory import free_bytes
from playground.models.products import fuse, merged, merged_bytes
from playground.models.scoring import Head
from playground.stages import ppo_losses as math
from playground.stages.inputs import Stopped
from playground.stages.logprobs import Learned, hidden_states
from playground.stages.rewards import Payer, Rewards
from playground.stages.rollouts import Rollouts, pack, predict, sample

if TYPE_CHECKING:
    from playground.stages.ppo import PPOSettings

POLICY = "default"
AT_ONCE = 64  # answers written in one batch


@dataclass
class Roles:
    """Who speaks through the base. A role is an adapter's name; the reference may be None, the base itself.

    critic: the policy's name where the value head reads the policy's own features, else the critic's own adapter.
    """

    adapters: Adapters
    reference: str | None
    critic: str
    value_head: torch.nn.Linear
    reward_head: Head | None = None

    @property
    def causal_lm(self) -> Any:
        """The base with its LM head, under whatever role is switched on."""
        return self.adapters.model.get_base_model()

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Everything an update may change, by name, in a fixed order."""
        names = dict.fromkeys((POLICY, self.critic))
        found = {key: p for name in names for key, p in self.adapters.weights(name).items()}
        return {**found, **{f"value_head.{key}": p for key, p in self.value_head.named_parameters()}}


@dataclass
class Iteration:
    """What one iteration gave: the rollouts, what they were paid, and every number that is logged."""

    batch: Rollouts
    texts: list[str]
    rewards: Rewards
    values: dict[str, float] = field(default_factory=dict)


class PPO:
    """The trainer. `tell` is called with words for the page; `should_stop` is asked before every token and update."""

    def __init__(
        self,
        settings: "PPOSettings",
        roles: Roles,
        renderer: Renderer,
        payer: Payer,
        tell: Callable[[str], None] = lambda phase: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        self.settings, self.roles, self.renderer, self.payer = settings, roles, renderer, payer
        self.tell, self.should_stop = tell, should_stop
        self.ends = eos_ids(roles.causal_lm, renderer.eos_id)
        self.kl_coef = settings.kl_coef
        on_cpu = next(roles.adapters.model.parameters()).device.type == "cpu"
        self.merges = on_cpu and 2 * merged_bytes(roles.adapters) < free_bytes()
        if on_cpu:
            fuse(roles.adapters)
        trained = list(roles.trained().values())
        self.optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, eps=1e-5, weight_decay=settings.weight_decay, fused=on_cpu
        )
        self.first_ratio: float | None = None  # of the very first minibatch: 1 unless something is wrong
        self.kept: dict[tuple[int, ...], Learned] = {}  # rows: a pass of `assess` that the first update goes on from

    def iterate(self, prompts: list[list[int]], iteration: int) -> Iteration:
        """Rollouts, scores and updates of one iteration (counted from 1)."""
        clock = {"rollout": time.monotonic()}
        self.tell("writing answers")
        found = self.collect(prompts, iteration)
        clock["score"] = time.monotonic()
        self.tell("scoring the answers")
        values = self.assess(found, self._opening(found.batch, iteration))
        clock["update"] = time.monotonic()
        values |= self.update(found.batch, iteration)
        seconds = self._seconds(clock)
        self.kl_coef = math.next_kl_coef(
            self.kl_coef,
            values["objective/kl"],
            self.settings.kl_target,
            len(prompts),
            self.settings.kl_horizon,
        )
        found.values = {**values, **seconds}
        return found

    @staticmethod
    def _seconds(clock: dict[str, float]) -> dict[str, float]:
        marks = [*clock.values(), time.monotonic()]
        spent = {f"seconds/{name}": marks[i + 1] - marks[i] for i, name in enumerate(clock)}
        return {"seconds/iteration": marks[-1] - marks[0], **spent}

    def collect(self, prompts: list[list[int]], iteration: int) -> Iteration:
        """Samples one answer a prompt from the policy and has them paid; Stopped if someone asked for it meanwhile.

        Iteration 0 is for measuring: always the same random numbers, which no other iteration draws.
        """
        s = self.settings
        sampling = Sampling(s.response_length, temperature=s.temperature)
        answers: list[list[int]] = []
        with self._inference(), self._decoding():
            for start in range(0, len(prompts), AT_ONCE):
                chunk = prompts[start : start + AT_ONCE]
                first = (s.seed * 1_000_003 + iteration) * 4096 + start
                seeds = range(first, first + len(chunk))
                model = self.roles.adapters.model
                answers += sample(model, chunk, self.ends, sampling, seeds, self.should_stop).answers
        if self.should_stop():
            raise Stopped
        return self.paid(pack(prompts, answers, self.ends, next(self.roles.adapters.model.parameters()).device))

    def paid(self, batch: Rollouts) -> Iteration:
        """The answers as text and what they earn."""
        texts = [self.renderer.decode(answer).strip() for answer in batch.answers]
        return Iteration(batch, texts, self.payer.pay(texts, batch.ended, self.reward_scores(batch)))

    def reward_scores(self, batch: Rollouts) -> list[float]:
        """The reward run's score of every answer, read at its last token; nothing where there is no reward run."""
        if self.roles.reward_head is None:
            return []
        scores = [0.0] * len(batch)
        with self._inference(), self.roles.adapters.use("reward"):
            for rows in self._groups(batch):
                part = batch.rows(rows)
                hidden = hidden_states(self.roles.causal_lm, part.input_ids, part.attention_mask)  # (b, T, H)
                last = hidden[torch.arange(len(rows)), part.attention_mask.sum(1) - 1].float()
                for i, score in zip(rows, self.roles.reward_head(last).squeeze(-1).tolist(), strict=True):
                    scores[i] = score
        return scores

    def assess(self, found: Iteration, opening: Sequence[int] = ()) -> dict[str, float]:
        """Log-probs of policy and reference, values, rewards, advantages and returns into batch.found; the numbers.

        opening: rows whose pass through the policy is kept with its gradient.
        """
        s, batch = self.settings, found.batch
        self.kept = {}
        others = [i for i in range(len(batch)) if i not in set(opening)]
        names = ("logps", "ref_logps", "values", "entropy")
        batch.found = {name: torch.zeros(batch.mask.shape, device=batch.mask.device) for name in names}
        with self._inference():
            for rows in [*([list(opening)] if opening else []), *batch.by_length(others, s.micro_batch_size)]:
                said, found_here = self._assess_rows(batch.rows(rows), keep=rows == list(opening))
                if said.logps.requires_grad:
                    self.kept[tuple(rows)] = said
                for name, values in found_here.items():
                    batch.found[name][rows, : values.shape[1]] = values
        batch.found = {name: values.clone() for name, values in batch.found.items()}
        logps, ref_logps, old_values = (batch.found[name] for name in ("logps", "ref_logps", "values"))
        scores = torch.tensor(found.rewards.scores, device=logps.device)
        rewards = math.token_rewards(logps, ref_logps, batch.mask, scores, self.kl_coef)
        earned = rewards
        if s.whiten_rewards:
            rewards = math.whiten(rewards, batch.mask, shift_mean=False)
        advantages = math.advantages(rewards, old_values, batch.mask, s.gamma, s.lam)
        batch.found["returns"] = advantages + old_values
        batch.found["advantages"] = math.whiten(advantages, batch.mask)
        return self._numbers(found, earned, advantages)

    def _opening(self, batch: Rollouts, iteration: int) -> list[int]:
        """The rows that the updates begin with. The policy has not moved until then, so their pass serves twice.

        None before the first ratio is known, which is to prove that a second pass sees the same; nor where activations
        are recomputed, as one can't keep them.
        """
        if self.first_ratio is None or self.roles.causal_lm.is_activation_checkpointing:
            return []
        return batch.by_length(self._minibatches(batch, iteration, 0)[0], self.settings.micro_batch_size)[0]

    def _minibatches(self, batch: Rollouts, iteration: int, epoch: int) -> list[list[int]]:
        """The rollouts in an order that depends on seed, iteration and epoch alone, in parts."""
        s = self.settings
        random = torch.Generator().manual_seed((s.seed * 1_000_003 + iteration) * 4096 + epoch)
        order = torch.randperm(len(batch), generator=random).tolist()
        size = -(-len(batch) // s.num_mini_batches)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _assess_rows(self, part: Rollouts, keep: bool = False) -> tuple[Learned, dict[str, torch.Tensor]]:
        """What the policy says, and (b, T-1) of each name, for one group of rows."""
        roles, temperature = self.roles, self.settings.temperature
        with roles.adapters.use(POLICY):
            with torch.set_grad_enabled(keep):
                said = predict(roles.causal_lm, part, temperature, details=True)
            known = roles.value_head(said.hidden.float()).squeeze(-1)
        if roles.critic != POLICY:
            known = self._critic(part)
        with roles.adapters.use(roles.reference):
            reference = predict(roles.causal_lm, part, temperature).logps
        found = {"logps": said.logps, "ref_logps": reference, "values": known, "entropy": said.entropy}
        return said, {name: said.spread(values) for name, values in found.items()}

    def _critic(self, part: Rollouts) -> torch.Tensor:
        """(N,): values of the critic that has an adapter of its own, at the token before each of the answer's."""
        with self.roles.adapters.use(self.roles.critic):
            hidden = hidden_states(self.roles.causal_lm, part.input_ids, part.attention_mask)
            return self.roles.value_head(hidden[:, :-1][part.mask].float()).squeeze(-1)

    def _numbers(self, found: Iteration, rewards: torch.Tensor, advantages: torch.Tensor) -> dict[str, float]:
        batch, kept = found.batch, found.batch.found
        kl = math.k1(kept["logps"], kept["ref_logps"])
        n, mask = len(batch), batch.mask
        return {
            "objective/scores": sum(found.rewards.scores) / n,
            "objective/kl": float(kl.sum() / n),
            "objective/kl_k3": float((math.k3(kept["logps"], kept["ref_logps"]) * mask).sum() / n),
            "objective/rlhf_reward": float(rewards.sum() / n),
            "objective/kl_coef": self.kl_coef,
            "policy/entropy_avg": float(math.masked_mean(kept["entropy"], mask)),
            "val/length": sum(batch.lengths) / n,
            "val/eos_rate": sum(batch.ended) / n,
            "val/explained_variance": math.explained_variance(kept["values"], kept["returns"], mask),
            "val/advantage_std": float(advantages[mask].std(correction=0)),
            "val/returns": float(math.masked_mean(kept["returns"], mask)),
        }

    def update(self, batch: Rollouts, iteration: int) -> dict[str, float]:
        """Epochs of minibatches over the rollouts; a minibatch that has drifted too far ends them unused."""
        s, steps = self.settings, 0
        sums: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * (1 - (iteration - 1) / s.max_steps)
        self._assert_trained()
        with self._training():
            for epoch in range(s.num_ppo_epochs):
                self.tell(f"updating, epoch {epoch + 1} of {s.num_ppo_epochs}")
                for chosen in self._minibatches(batch, iteration, epoch):
                    seen = self._minibatch(batch, chosen)
                    if self.first_ratio is None:
                        self.first_ratio = seen["val/ratio"]
                    too_far = s.epoch_kl > 0 and seen["policy/approxkl_avg"] > 1.5 * s.epoch_kl
                    if too_far:
                        self.optimizer.zero_grad(set_to_none=True)
                        break
                    norm = torch.nn.utils.clip_grad_norm_(self.roles.trained().values(), s.max_grad_norm)
                    if not norm.isfinite():  # in fp16 a gradient can overflow: such an update is left out
                        self.optimizer.zero_grad(set_to_none=True)
                        continue
                    self.optimizer.step()
                    self.optimizer.zero_grad(set_to_none=True)
                    steps += 1
                    for name, value in {**seen, "grad_norm": float(norm)}.items():
                        sums[name] = sums.get(name, 0.0) + value
                else:
                    continue
                break
        means = {name: value / max(steps, 1) for name, value in sums.items()}
        return {**means, "learning_rate": self.optimizer.param_groups[0]["lr"], "val/updates": float(steps)}

    def _minibatch(self, batch: Rollouts, chosen: list[int]) -> dict[str, float]:
        """Gradients of one minibatch, gathered over groups of rows that fit in memory; each token weighs the same."""
        count = int(batch.mask[chosen].sum())
        sums: dict[str, float] = {}
        for rows in batch.by_length(chosen, self.settings.micro_batch_size):
            said = self.kept.pop(tuple(rows), None)
            for name, value in self._backward(batch.rows(rows), said).items():
                sums[name] = sums.get(name, 0.0) + value
        for grad in (weight.grad for weight in self.roles.trained().values() if weight.grad is not None):
            grad /= count  # afterwards, because what a mean sends backward is too small for fp16
        return {name: value / count for name, value in sums.items()}

    def _backward(self, part: Rollouts, said: Learned | None = None) -> dict[str, float]:
        """Adds the gradients of these rows' losses and returns what was seen, both summed over their tokens; said: what
        the policy says of them, if that is known with its gradient."""
        s, roles, mask = self.settings, self.roles, part.mask
        old, advantages, old_values, returns = (
            part.found[name][mask] for name in ("logps", "advantages", "values", "returns")
        )
        with roles.adapters.use(POLICY):
            said = said or predict(roles.causal_lm, part, s.temperature)
            losses, ratio = math.policy_losses(said.logps, old, advantages, s.cliprange)
            total = losses.sum()
            if roles.critic == POLICY:
                values = roles.value_head(said.hidden.float()).squeeze(-1)
                value_losses = math.value_losses(values, old_values, returns, s.cliprange_value)
                total = total + s.vf_coef * value_losses.sum()
            total.backward()  # under the policy: a switch in between would lose the gradient without an error
        if roles.critic != POLICY:
            with roles.adapters.use(roles.critic):
                value_losses = math.value_losses(self._critic(part), old_values, returns, s.cliprange_value)
                (s.vf_coef * value_losses.sum()).backward()
        ratio, new = ratio.detach(), said.logps.detach()
        return {
            "loss/policy_avg": float(losses.detach().sum()),
            "loss/value_avg": float(value_losses.detach().sum()),
            "policy/clipfrac_avg": float(((ratio - 1).abs() > s.cliprange).sum()),
            "policy/approxkl_avg": float(math.k3(old, new).sum()),
            "val/ratio": float(ratio.sum()),
        }

    def _groups(self, batch: Rollouts) -> list[list[int]]:
        return batch.by_length(range(len(batch)), self.settings.micro_batch_size)

    def _assert_trained(self) -> None:
        """Exactly the policy, the critic and its head may change."""
        wanted = set(self.roles.trained())
        found = {name for name, p in self.roles.adapters.model.named_parameters() if p.requires_grad}
        assert found == {name for name in wanted if not name.startswith("value_head.")}, "other weights would train"

    def _decoding(self) -> AbstractContextManager[None]:
        """The policy as it writes: on a CPU with room for it as dense matrices, which take half the time."""
        adapters = self.roles.adapters
        return merged(adapters, POLICY) if self.merges else adapters.use(POLICY)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        self.roles.adapters.model.eval()
        with torch.no_grad():
            yield

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Train mode only where activations are recomputed: there is no dropout, so that it changes nothing else."""
        model = self.roles.adapters.model
        model.train(self.roles.causal_lm.is_activation_checkpointing)
        try:
            yield
        finally:
            model.eval()
