"""Training: the optimizer and one step so far."""
