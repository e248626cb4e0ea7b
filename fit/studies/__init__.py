"""Questions asked of many fits: the laws against each other, and the paper's figures beside ours."""
