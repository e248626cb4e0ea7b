"""What the packages share and no result depends on: errors for users, and writing files whole."""
