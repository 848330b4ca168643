"""**Proximal policy optimisation (PPO)** lets the model write its own answers and moves it towards those that are
rewarded:

`reward = score(answer) − β · Σ [log π(token) − log π_ref(token)]`, and each update maximises
`min(A·ρ, A·clip(ρ, 1−ε, 1+ε))` with `ρ = π/π_old`

SFT and DPO learn from answers somebody wrote down; PPO learns from its own, so it can find ways to a high score that
nobody showed it. That is its strength and its danger: it maximises the *score*, not what you meant. So watch the reward
beside the checks, and the KL: how far the policy has gone from the model it started as, the reference.
"""

from dataclasses import dataclass
from typing import Any

from playground.data.library import Dataset
from playground.models.catalog import Base
from playground.runs.run import Run
from playground.settings import Settings as Plain
from playground.settings import setting
from playground.stages.training import same

NAME = "ppo"
TITLE = "PPO"
COLUMNS = "prompts"
ANSWERS = True
ROLLOUTS = True
FRONTIER = True
NEXT = "Read its rollouts below, then ask it something beside its parent in the Chat tab."
METRICS = {
    "objective/scores": "What the answers earn, on average: the proxy that is maximised.",
    "checks": "Share of answers that pass all checks of the dataset: the goal itself (gold), which PPO never sees.",
    "objective/kl": "How far the policy has gone from the reference, in nats a response; 0 at the start.",
    "policy/entropy_avg": "How undecided the policy is at each token, in nats; a collapse means it repeats itself.",
    "val/length": "Tokens of an answer, its end token included.",
    "val/eos_rate": "Share of answers that come to their end within the allowed length.",
    "policy/clipfrac_avg": "Share of tokens whose ratio left the clip range: above 0.3 the updates are too large.",
    "policy/approxkl_avg": "How far one iteration's updates move the policy, in nats a token.",
    "val/explained_variance": "How much of the returns the critic foresees: 1 is all of it, 0 no more than the mean.",
    "loss/policy_avg": "The clipped policy loss; it hovers around 0 and says little by itself.",
    "loss/value_avg": "The critic's loss; it should fall.",
    "objective/kl_coef": "The price of one nat of KL, adapted where a target is set.",
    "objective/rlhf_reward": "Score less the KL penalty: what PPO really maximises.",
    "seconds/iteration": "Seconds an iteration; the sentence below says where they went.",
    "grad_norm": "Size of the update before clipping; a sudden jump means the learning rate is too high.",
    "learning_rate": "The step size; it falls to zero in a straight line.",
}


@dataclass
class PPOSettings(Plain):
    """Everything a person can choose for a PPO run; names are TRL's and the papers'."""

    reward_run: str = setting(
        "", "Reward run", "The reward model that scores the answers; none: rules alone.", runs="reward"
    )
    rules: str = setting(
        "",
        "Rules",
        "One a line, as max_words: 60 or keyword: please. With neither rules nor a reward run, the dataset's checks.",
        lines=3,
    )
    max_steps: int = same("max_steps", 20, label="Iterations", help="Each writes, scores and learns once.", low=1)
    per_device_train_batch_size: int = same(
        "per_device_train_batch_size", 16, label="Rollouts", help="Answers written an iteration; more is steadier."
    )
    response_length: int = setting(
        64, "Longest answer", "Tokens an answer may have; a cut one pays the penalty below.", low=4, high=1024, step=4
    )
    learning_rate: float = same("learning_rate", 1e-4, help="Step size; too large and the policy falls apart.")
    kl_coef: float = setting(0.05, "KL coefficient β", "Price of one nat away from the reference.", low=0.0, high=10.0)
    kl_target: float = setting(
        6.0,
        "KL target",
        "Nats a response that β is steered to: up when the KL is above, down below; 0 keeps β fixed.",
        low=0.0,
        high=100.0,
    )
    kl_budget: float = setting(
        25.0, "KL budget", "The run stops by itself above so many nats a response; 0: never.", low=0.0, high=1000.0
    )
    quantization: str = same("quantization")
    lora_r: int = same("lora_r")
    reward_weight: float = setting(
        1.0, "Weight of the reward run", "Its scores count in standard deviations.", low=0.0, high=10.0, advanced=True
    )
    rules_weight: float = setting(
        1.0,
        "Weight of the rules",
        "Their mean, the worst twice, counts between −1 and 1.",
        low=0.0,
        high=10.0,
        advanced=True,
    )
    missing_eos_penalty: float = setting(
        1.0, "No-end penalty", "Taken from answers that don't come to an end.", low=0.0, high=10.0, advanced=True
    )
    score_clip: float = setting(
        5.0, "Score clip", "The reward run's scores are held within so many standard deviations.", low=0.5, high=100.0,
        advanced=True,
    )  # fmt: skip
    temperature: float = setting(
        1.0, "Temperature", "Of the sampling; everything is measured at it.", low=0.1, high=2.0, advanced=True
    )
    num_ppo_epochs: int = setting(
        2, "Epochs a batch", "How often each iteration goes through its rollouts.", low=1, high=16, advanced=True
    )
    num_mini_batches: int = setting(2, "Minibatches", "Updates an epoch.", low=1, high=64, advanced=True)
    micro_batch_size: int = setting(
        8, "Rows at once", "Rows in one forward pass; fewer need less memory, the result is the same.", low=1, high=256,
        advanced=True,
    )  # fmt: skip
    cliprange: float = setting(
        0.2, "Clip range ε", "How far a token's ratio may move the loss.", low=0.01, high=1.0, advanced=True
    )
    epoch_kl: float = setting(
        0.03, "Epoch KL limit", "Nats a token by which one iteration may move; half more ends its epochs; 0: no limit.",
        low=0.0, high=10.0, advanced=True,
    )  # fmt: skip
    critic: str = setting(
        "auto",
        "Critic",
        "shared: a head on the policy's features; adapter: LoRA weights of its own, started from the reward run. auto: "
        "shared on a CPU, adapter on a GPU.",
        choices=("auto", "shared", "adapter"),
        advanced=True,
    )
    vf_coef: float = setting(
        0.1, "Value coefficient", "Weight of the critic's loss.", low=0.0, high=10.0, advanced=True
    )
    cliprange_value: float = setting(
        0.2, "Value clip range", "How far one iteration may move a value.", low=0.01, high=100.0, advanced=True
    )
    gamma: float = setting(1.0, "Discount γ", "1: the end counts like the start.", low=0.0, high=1.0, advanced=True)
    lam: float = setting(
        0.95, "GAE λ", "1 trusts the score alone, 0 the critic alone.", low=0.0, high=1.0, advanced=True
    )
    whiten_rewards: bool = setting(
        False, "Whiten rewards", "Scales the rewards of an iteration to variance 1.", advanced=True
    )
    kl_horizon: int = setting(
        64, "KL horizon", "Rollouts over which β may change by a fifth.", low=1, high=1_000_000, advanced=True
    )
    max_length: int = same("max_length", 256, label="Longest prompt", help="Tokens; longer prompts are left out.")
    eval_steps: int = same(
        "eval_steps", 5, help="Iterations between held-out measurements; 0: at the start and the end only."
    )
    eval_prompts: int = setting(
        32, "Held-out prompts", "How many are answered at each measurement.", low=1, high=200, advanced=True
    )
    save_steps: int = same("save_steps", 5, help="Iterations between checkpoints that a run can resume from.")
    probe_steps: int = same("probe_steps", 5, help="Iterations between answers to the probe prompts; 0: start and end.")
    probe_prompts: str = same("probe_prompts")
    probe_tokens: int = same("probe_tokens")
    lora_alpha: int = same("lora_alpha")
    lora_targets: str = same("lora_targets")
    weight_decay: float = same("weight_decay")
    max_grad_norm: float = same("max_grad_norm")
    seed: int = same("seed")

    @property
    def lora_dropout(self) -> float:
        """None: a ratio between two passes with different dropout would mean nothing."""
        return 0.0


Settings = PPOSettings


def prepare(settings: PPOSettings, base: Base, dataset: Dataset) -> dict[str, Any]:
    """SettingError before anything is queued; what the request keeps besides: reward run, rules, checks."""
    from playground.stages import ppo_setup

    return ppo_setup.prepare(settings, base, dataset)


def main(settings: PPOSettings, run: Run) -> None:
    """One PPO run: prompts → base with its roles → iterations → save."""
    from playground.models import loading
    from playground.stages import ppo_loop, ppo_setup, ppo_state

    setup = ppo_setup.open_run(settings, run)
    trainer, base, renderer = setup.trainer, setup.base, setup.renderer
    done = ppo_state.restore(trainer, run)
    run.forget_after(done if done else -1)
    reached = ppo_loop.iterate(setup, run, done)
    run.update(phase="saving")
    loading.save_adapter(trainer.roles.adapters.model, base, renderer.template, run.adapter)
    parameters = sum(p.numel() for p in trainer.roles.trained().values())
    receipt = {"metrics": reached, "placement": str(setup.where), "trainable_parameters": parameters}
    run.write_receipt({**receipt, "rows_left_out": setup.left_out, "gpu_bytes": ppo_setup.gpu_bytes(setup)})
    if not run.stop_requested():
        ppo_state.drop(run)


def outcome(run: Run) -> str:
    """How the run ended, in one sentence for the page."""
    from playground.statistics import wilson

    metrics = run.receipt().get("metrics", {})
    if "eval_objective/scores" not in metrics or "start_objective/scores" not in metrics:
        return f"Trained {metrics.get('step', 0)} iterations; nothing was measured on held-out prompts."
    start, end = metrics["start_objective/scores"], metrics["eval_objective/scores"]
    words = f"On held-out prompts the reward went from {start:.2f} to {end:.2f}"
    if "eval_checks" in metrics:
        n = int(metrics["eval_n"])
        before, after = (wilson(round(metrics[key] * n), n) for key in ("start_checks", "eval_checks"))
        words += f", answers that pass all checks from {before} to {after}"
    return f"{words}, at a KL of {metrics['objective/kl']:.1f} nats a response."
