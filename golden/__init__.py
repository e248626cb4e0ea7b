"""Independent references: simulated curves with a known law, made by committed scripts with fixed seeds."""
