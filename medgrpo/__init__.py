"""Fine-tune small open language models with GRPO on medical questions, and serve only what is shown to be better."""

__version__ = "0.1.0"
