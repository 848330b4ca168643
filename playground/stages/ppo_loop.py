"""The iterations of a PPO run: what is measured and written between them, and when it stops by itself."""

import math
import resource
import statistics
import time
from typing import Any

from playground.runs.run import Run
from playground.stages import checks, ppo_state, proofs
from playground.stages.inputs import StageError, Stopped
from playground.stages.ppo_losses import k1
from playground.stages.ppo_setup import Setup
from playground.stages.ppo_trainer import POLICY, Iteration
from playground.stages.probes import prober, prompts_of

KEPT_ROLLOUTS = 16  # an iteration; all are learned from, the browser shows these


def iterate(setup: Setup, run: Run, done: int) -> dict[str, Any]:
    """Goes on from iteration `done`; returns the last metrics, those of the start, and what it cost."""
    loop = _Loop(setup, run)
    s, began = setup.settings, time.monotonic()
    if done == 0:
        loop.measure(0)
    for iteration in range(done + 1, s.max_steps + 1):
        try:
            found = setup.trainer.iterate(setup.batch(iteration), iteration)
        except Stopped:
            break
        done = iteration
        loop.write(found, iteration)
        over = 0 < s.kl_budget < found.values["objective/kl"]
        last = over or iteration == s.max_steps
        if not run.stop_requested() and (last or (s.eval_steps and iteration % s.eval_steps == 0)):
            loop.measure(iteration)
        if over or run.stop_requested() or iteration % s.save_steps == 0:
            ppo_state.save(setup.trainer, run, iteration)
        if over:
            kl = f"{found.values['objective/kl']:.1f} nats a response"
            run.update(message=f"Stopped itself at iteration {iteration}: {kl}, over the KL budget.")
        if over or run.stop_requested():
            break
    if done == 0:
        raise Stopped
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {**loop.result(done), "step": done, "train_seconds": round(time.monotonic() - began, 1), "peak_rss_mb": peak}


class _Loop:
    """Measures, writes and tells; keeps how long things took for the ETA."""

    def __init__(self, setup: Setup, run: Run):
        self.setup, self.run, s = setup, run, setup.settings
        self.probe = prober(setup.renderer, prompts_of(s.probe_prompts), s.probe_tokens, run)
        self.seconds: list[float] = []
        self.measuring = 0.0
        self.last: dict[str, float] = {}
        run.update(phase="starting", total=s.max_steps)

    def measure(self, iteration: int) -> None:
        """Answers to the held-out prompts, sampled as in training, always with the same random numbers: what they earn
        (proxy) and whether they pass the checks (gold)."""
        setup, s, began = self.setup, self.setup.settings, time.monotonic()
        trainer = setup.trainer
        with trainer.roles.adapters.use(POLICY):
            if (s.probe_steps and iteration % s.probe_steps == 0) or iteration in (0, s.max_steps):
                self.probe(trainer.roles.adapters.model, iteration)
        if not setup.heldout:
            return
        self.run.update(phase="answering the held-out prompts")
        try:
            found = trainer.collect(setup.heldout, 0)
        except Stopped:  # the loop notices it too
            return
        scores = found.rewards.scores
        values = {
            "eval_objective/scores": statistics.fmean(scores),
            "eval_scores_std": statistics.pstdev(scores),
            "eval_val/length": statistics.fmean(found.batch.lengths),
            "eval_val/eos_rate": statistics.fmean(map(float, found.batch.ended)),
            **self._checked(found.texts, "eval_checks"),
        }
        self.run.log("eval", iteration, values)
        self.last = {**self.last, **values, "eval_n": len(scores), "eval_step": iteration}
        self.measuring = time.monotonic() - began

    def _checked(self, texts: list[str], name: str) -> dict[str, float]:
        gold = self.setup.gold
        return {name: statistics.fmean(float(checks.check(text, gold)["all"]) for text in texts)} if gold else {}

    def write(self, found: Iteration, iteration: int) -> None:
        """Metrics, rollouts and progress of one iteration; StageError where a number is no longer one."""
        values = {**found.values, **self._checked(found.texts, "checks")}
        if iteration == 1:
            self._prove(values)
        self.run.log("train", iteration, values)
        for name in ("objective/kl", "loss/policy_avg"):
            if not math.isfinite(values.get(name, 0.0)):
                raise StageError(f"{name} is no longer a number at iteration {iteration}: lower the learning rate.")
        self.last.update(values)
        for row in _rows(found, self.setup)[:KEPT_ROLLOUTS]:
            self.run.rollout(iteration, row)
        self.seconds.append(values["seconds/iteration"])
        s = self.setup.settings
        left = s.max_steps - iteration
        measurements = 1 + (left // s.eval_steps if s.eval_steps else 0)
        eta = statistics.fmean(self.seconds[-5:]) * left + self.measuring * min(measurements, left)
        self.run.update(step=iteration, total=s.max_steps, eta=eta)

    def _prove(self, values: dict[str, float]) -> None:
        """The step-0 truths of PPO, measured on the first rollouts and the first minibatch."""
        tolerance = 1e-4 if self.setup.where.device == "cpu" else 5e-2
        ratio = self.setup.trainer.first_ratio
        assert ratio is not None
        proofs.prove(
            self.run,
            proofs.close(
                "The KL starts at 0", values["objective/kl"], 0.0, 10 * tolerance, "policy and reference are one."
            ),
            proofs.close("The ratio starts at 1", ratio, 1.0, tolerance, "the update sees what was sampled."),
        )

    def result(self, done: int) -> dict[str, float]:
        """The last values, and the held-out ones of the start; of a stopped run only what is of its last weights."""
        start: dict[str, float] = next(
            (e["values"] for e in self.run.metrics() if e["kind"] == "eval" and e["step"] == 0), {}
        )
        last = self.last
        if last.pop("eval_step", None) != done:
            last = {name: value for name, value in last.items() if not name.startswith("eval_")}
        return {**last, **{name.replace("eval_", "start_", 1): value for name, value in start.items()}}


def _rows(found: Iteration, setup: Setup) -> list[dict[str, Any]]:
    """The rollouts as the browser shows them: prompt, answer with the KL of each token, what it earned and for what."""
    batch = found.batch
    kl = k1(batch.found["logps"], batch.found["ref_logps"])
    rows = []
    for i in range(len(batch)):
        by_token = kl[i][batch.mask[i]].tolist()
        rows.append(
            {
                "prompt": setup.questions[tuple(batch.prompts[i])],
                "answer": found.texts[i],
                "score": found.rewards.scores[i],
                "parts": found.rewards.parts[i],
                "ended": batch.ended[i],
                "kl": sum(by_token),
                "tokens": setup.renderer.token_texts(batch.answers[i]),
                "token_kl": [round(value, 4) for value in by_token],
            }
        )
    return rows
