"""Interchange with lm-evaluation-harness: a task that asks the same rows, and results in its shape."""
