"""What later work says of Clark et al.'s conclusions: the figures and numbers of `docs/after_clark.md`."""
