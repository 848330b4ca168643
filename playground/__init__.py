"""Alignment Playground: learn and try SFT, reward models, PPO, DPO and constitutions on one small machine."""

__version__ = "0.1.0"
