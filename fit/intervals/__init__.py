"""How far a figure can be trusted: resampling, and profiles of the objective."""
