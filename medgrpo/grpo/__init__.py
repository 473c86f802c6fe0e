"""Training with GRPO: `launch.train` starts it in a process of its own, `job.run` is what that process does.

The parent's side: launch (start, follow, bring back), command (one process or several), refusals, fit (what can't work
is refused), protocol (what both sides say to each other), publish (what MLflow is sent afterwards).

The process: job, warm_start, arguments (our settings in TRL's words), trainer. The trainer is TRL's with
- cheaper steps: fast_path, with shared_prefix, completion_head, grouped_attention, sampling, inference_copy, idle,
  obstacles;
- resumes to the bit: resumable, with prompt_order, isolation, carried, checkpoints, stopping;
- its completions recorded and redrawn: blocks, with rollouts, ledger, redraw.

Beside the steps: callbacks, metrics, guards, rollback, ranks (several processes).
"""
