"""Figures of a fit, each a function that returns a matplotlib Figure. Importing it imports matplotlib: do it where one is drawn."""

from fit.show.figures.checks import has_valley, objective_over, residuals, roll_out_errors, valley, valley_is_exact
from fit.show.figures.curves import equal_loss, loss_by_effective_size, loss_by_experts, loss_by_size
from fit.show.figures.style import to_png, to_svg

__all__ = [
    "equal_loss",
    "has_valley",
    "loss_by_effective_size",
    "loss_by_experts",
    "loss_by_size",
    "objective_over",
    "residuals",
    "roll_out_errors",
    "to_png",
    "to_svg",
    "valley",
    "valley_is_exact",
]
