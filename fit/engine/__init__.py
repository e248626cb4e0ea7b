"""Fits: one problem, global search, projection and polish; one fit, or thousands of refits at once."""
