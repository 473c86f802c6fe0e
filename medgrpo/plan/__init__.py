"""What a run would cost: an estimate of memory and time, and one real step that is measured for it."""
