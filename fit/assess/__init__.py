"""How far a law can be trusted: held-out runs, lack of fit, and coded warnings."""
