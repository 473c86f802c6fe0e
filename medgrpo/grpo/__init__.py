"""Training with GRPO: `launch.train` starts it in a process of its own, `job.run` is what that process does."""
