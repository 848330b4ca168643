"""Talking with checkpoints of one base side by side."""
