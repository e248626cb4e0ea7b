"""From a law and runs to a certified optimum, one fit or thousands of resamples at once."""
