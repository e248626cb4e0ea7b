"""From a budget to a model: the best (N_active, E, k, G, D) within limits by each law that can answer, and the band about it.

from fit.design.answer import answers
    from fit.design.predictor import published_predictors
    from fit.design.question import Question

found, left_out = answers(Question(flops=1e21, memory=8 * 80e9), *published_predictors())
"""
