"""What papers state, put to the runs: a file a paper, through the public names of `fit` alone."""
