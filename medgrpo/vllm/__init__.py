"""vLLM: started beside this process or found at a URL, one base model with adapters side by side."""
