"""The served stage: the champion behind an OpenAI-shaped HTTP interface, each answer naming its model version."""
