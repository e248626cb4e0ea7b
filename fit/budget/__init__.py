"""What laws of dense runs decide: the best size and tokens of a training budget, by a fitted law and by IsoFLOP profiles."""
