"""The stages as Prefect tasks: each is one library call with retries, a cache key, a time limit and an artifact."""
