"""How far a figure can be trusted: resampling, intervals with a status, profiles of the objective."""
