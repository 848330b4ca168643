"""What a PPO run needs before its first iteration: prompts, the base with all its roles, what answers are paid for."""

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from playground.data.library import Dataset
from playground.data.rendering import Message, Renderer, RenderError
from playground.models.catalog import Base
from playground.runs import run as runs
from playground.runs.run import Run
from playground.settings import SettingError
from playground.stages import proofs
from playground.stages.inputs import WEIGHTS, StageError, base_of, dataset_of, known_weights, parent_of, reward_of
from playground.stages.judgement import read_scores
from playground.stages.rewards import Payer, parse_rules

if TYPE_CHECKING:
    from playground.models.loading import Placement
    from playground.stages.ppo import PPOSettings
    from playground.stages.ppo_trainer import PPO, Roles


@dataclass
class Setup:
    """A PPO run, ready for its first iteration. Prompts are token ids; gold: the checks that PPO never sees."""

    settings: "PPOSettings"
    base: Base
    renderer: Renderer
    where: "Placement"
    trainer: "PPO"
    prompts: list[list[int]]
    questions: dict[tuple[int, ...], str]
    heldout: list[list[int]]
    gold: dict[str, Any]
    left_out: int

    def batch(self, iteration: int) -> list[list[int]]:
        """The prompts of one iteration (counted from 1): shuffled passes through all of them, by the seed alone."""
        size = self.settings.per_device_train_batch_size
        chosen = []
        for place in range((iteration - 1) * size, iteration * size):
            turn, index = divmod(place, len(self.prompts))
            order = list(range(len(self.prompts)))
            random.Random(self.settings.seed * 1_000_003 + turn).shuffle(order)
            chosen.append(self.prompts[order[index]])
        return chosen


def gpu_bytes(setup: Setup) -> dict[str, float]:
    """Estimated and measured GPU memory of a run that has ended, in bytes; nothing on a CPU."""
    import torch

    from playground.models.memory import ppo_bytes

    if setup.where.device != "cuda":
        return {}
    s, roles = setup.settings, setup.trainer.roles
    config = json.loads((setup.base.folder / "config.json").read_text(encoding="utf-8"))
    trained = len({"default", roles.critic})
    adapters = (trained, len(roles.adapters.model.peft_config) - trained)
    tokens = s.max_length + s.response_length
    found = ppo_bytes(config, s.per_device_train_batch_size, tokens, s.micro_batch_size, s.lora_r, adapters)
    return {"estimated": found["total"], "measured": float(torch.cuda.max_memory_allocated())}


def prepare(settings: "PPOSettings", base: Base, dataset: Dataset) -> dict[str, Any]:
    """SettingError unless a run with these settings can start; what its request keeps: reward run and rules."""
    if not dataset.train:
        raise SettingError(f"{dataset.name} has no prompts.")
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    most = config.get("max_position_embeddings") or 10**9
    if settings.max_length + settings.response_length > most:
        raise SettingError(f"{base.title} holds {most} tokens; longest prompt and longest answer together are more.")
    if settings.num_mini_batches > settings.per_device_train_batch_size:
        raise SettingError("Minibatches: there are fewer rollouts than that.")
    reward = _reward_run(settings, base)
    rules = parse_rules(settings.rules)
    if reward is None and not rules:
        rules = dataset.checks()
        if not rules:
            raise SettingError(
                f"Nothing would be rewarded: {dataset.name} has no checks. Choose a reward run or write rules."
            )
    sample = [row.asked for row in dataset.rows("train")[:100]]
    if not _encoded(sample, Renderer(base.folder), settings.max_length):
        raise SettingError(f"No prompt has at most {settings.max_length} tokens; raise the longest prompt.")
    return {"reward": known_weights(reward), "rules": rules}


def _reward_run(settings: "PPOSettings", base: Base) -> Run | None:
    """The reward run that the settings name, if it can score this base's answers."""
    if not settings.reward_run:
        return None
    found = runs.find(settings.reward_run)
    request, status = found.request, found.status()
    if request["stage"] != "reward":
        raise SettingError(f"Reward run: {found.name} is not a reward model.")
    if status.active:
        raise SettingError(f"Reward run: {found.name} is still {status.state}; wait for its end.")
    if request["base_identity"] != base.identity:
        raise SettingError(f"Reward run: {found.name} was trained on {request['base_title']}, not on {base.title}.")
    if not (found.adapter / WEIGHTS).exists() or "std" not in read_scores(found):
        raise SettingError(f"Reward run: {found.name} ended before its scores were measured; train or resume it.")
    return found


def _encoded(prompts: list[list[Message]], renderer: Renderer, most: int) -> dict[tuple[int, ...], str]:
    """Each prompt as token ids, once, with its question, unless the template refuses it or it is too long."""
    found: dict[tuple[int, ...], str] = {}
    for messages in prompts:
        try:
            ids = renderer.prompt_ids(messages)
        except RenderError:
            continue
        if len(ids) <= most:
            found[tuple(ids)] = messages[-1]["content"]
    return found


def open_run(settings: "PPOSettings", run: Run) -> Setup:
    """Base, roles, prompts and trainer of a run; proofs that hold before anything is sampled are written."""
    from playground.models import loading
    from playground.stages import training
    from playground.stages.ppo_trainer import POLICY, PPO

    base, dataset = base_of(run), dataset_of(run)
    renderer = Renderer(base.folder)
    asked = [row.asked for row in dataset.rows("train")]
    questions = _encoded(asked, renderer, settings.max_length)
    if not questions:
        raise StageError(f"No prompt has at most {settings.max_length} tokens; raise the longest prompt.")
    heldout = _encoded([row.asked for row in dataset.rows("heldout")], renderer, settings.max_length)
    run.write_proofs([])
    proofs.prove(run, proofs.same_model(run, renderer))
    reward = reward_of(run)
    where, model = training.open_model(settings, run, base)
    roles = _roles(settings, model, (parent_of(run), reward), where)
    if where.device == "cuda":  # recomputes activations in backward; on a CPU memory is not what is scarce
        model.get_base_model().activation_checkpointing_enable()
    roles.adapters.train_only(*dict.fromkeys((POLICY, roles.critic)))
    loading.fp32_adapters(model)
    proofs.prove(run, proofs.only_adapters(model))
    payer = _payer(settings, run, reward)
    trainer = PPO(settings, roles, renderer, payer, lambda phase: run.update(phase=phase), run.stop_requested)
    unique = len({json.dumps(messages) for messages in asked})
    return Setup(
        settings=settings,
        base=base,
        renderer=renderer,
        where=where,
        trainer=trainer,
        prompts=list(map(list, questions)),
        questions=questions,
        heldout=list(map(list, heldout))[: settings.eval_prompts],
        gold=dataset.checks(),
        left_out=unique - len(questions),
    )


def _payer(settings: "PPOSettings", run: Run, reward: Run | None) -> Payer:
    known = read_scores(reward) if reward else {}
    return Payer(
        rules=run.request["rules"],
        rules_weight=settings.rules_weight,
        reward_weight=settings.reward_weight,
        mean=known.get("mean", 0.0),
        std=known.get("std", 1.0),
        clip=settings.score_clip,
        missing_eos_penalty=settings.missing_eos_penalty,
    )


def _roles(settings: "PPOSettings", model: Any, others: tuple[Run | None, Run | None], where: "Placement") -> "Roles":
    """All roles on the policy's base. A critic with an adapter of its own starts as the reward run, scaled as PPO pays
    it (Huang et al. 2024), else as the policy; any other head starts from 0."""
    import torch

    from playground.models.adapters import Adapters
    from playground.models.scoring import head_weight, read_head
    from playground.stages.ppo_trainer import POLICY, Roles

    parent, reward = others
    adapters, device = Adapters(model), next(model.parameters()).device
    if parent:
        adapters.load("ref", parent.adapter)
    if reward:
        adapters.load("reward", reward.adapter)
    own = settings.critic == "adapter" or (settings.critic == "auto" and where.device == "cuda")
    head = torch.nn.Linear(model.config.hidden_size, 1, device=device, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    if own and reward:
        adapters.load("value", reward.adapter)
        known = read_scores(reward)
        scale = settings.reward_weight / known["std"]
        head.weight.data.copy_(head_weight(reward.adapter) * scale)
        head.bias.data.fill_(-known["mean"] * scale)
    elif own:
        adapters.copy(POLICY, "value")
    score = read_head(reward.adapter, device) if reward else None
    return Roles(adapters, "ref" if parent else None, "value" if own else POLICY, head, score)
