"""The sections that only the written report has: figures, held-out errors, lack of fit, and what other choices would have given."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fit.analysis import Analysis, Result
from fit.assess.held_out import Score, pooled
from fit.epc import has_epc
from fit.report.assessment import CHOICES, STEPS, TARGETS, Assessment, FitScore
from fit.report.findings import headline, law_phrase
from fit.show.display import count, percent, plain
from fit.show.document import Block, Figure, Paragraph, Section, Table
from fit.solver.losses import SquaredLog
from fit.studies.sensitivity import sensitivity_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


def curves_section(analysis: Analysis) -> Section:
    """The paper's Figure 1 from these runs."""
    main = headline(analysis)
    if not main or not has_epc(main[0].law):
        return Section("The law and the runs", ())
    law = law_phrase(main[0])
    beyond = "Dashed beyond the runs: extrapolated."
    blocks = (
        _figure("loss-by-experts", f"Figure 1 (a). Loss against the number of experts; lines: {law}. {beyond}", main),
        _figure("loss-by-size", f"Loss against dense size for each number of experts; lines: {law}. {beyond}", main),
        Figure(
            "equal-loss",
            f"Figure 1 (b). Lines of equal loss by {law}: the dense size that with E experts reaches the loss of a dense model. "
            f"Bands: {percent(analysis.options.level)} intervals; crosses: the runs. Dashed outside the runs: extrapolated.",
            partial(_draw, "equal_loss", main, analysis.options.level),
        ),
        _figure(
            "loss-by-effective-size",
            f"Figure 1 (c). Every run against its dense size, and against its effective parameter count by {law}: as far as the law "
            f"is right, all fall onto the dense line. {beyond}",
            main,
        ),
    )
    return Section("The law and the runs", blocks)


def _figure(name: str, caption: str, results: Sequence[Result]) -> Figure:
    return Figure(name, caption, partial(_draw, name.replace("-", "_"), results))


def _draw(function: str, *arguments: object) -> "MatplotlibFigure":
    """Call one of `fit.show.figures`, imported only now: importing matplotlib takes longer than fitting."""
    from fit.show import figures

    return getattr(figures, function)(*arguments)


def valley_figure(analysis: Analysis) -> Figure | None:
    """The objective over the start and the end of saturation; None for laws and losses for which it cannot be drawn."""
    main = headline(analysis)
    if not main or len(main[0].law.shapes) != 2 or len(main[0].law.ratios) != 1 or type(analysis.options.loss) is not SquaredLog:
        return None
    caption = (
        f"The objective as a multiple of its least value, over the start and the end of saturation, everything else at its best "
        f"({law_phrase(main[0])}). Shaded: the joint {percent(analysis.options.level)} region of the profile likelihood, "
        "RSS/RSS_min <= (1 - level)^(-2/(n - p)). Stars: the published solution (Table 3), where there is one."
    )
    return Figure("objective", caption, partial(_draw, "valley", main, analysis.options.level))


def profile_table(analysis: Analysis, assessment: Assessment) -> Table | None:
    """Profile-likelihood intervals of the headline law's shape parameters; None where there are none."""
    rows = tuple(
        (router, one.name, f"{one.value:.4g}", _end(one.low, one.low_open), _end(one.high, one.high_open))
        for router, found in assessment.profiles.items()
        for one in found
    )
    title = f"Profile-likelihood intervals of the shape parameters, {percent(analysis.options.level)}"
    note = "Where everything else at its best fits worse than F allows. Open: the search's range ends first, the runs set no limit there."
    return Table(title, ("router", "parameter", "value", "low", "high"), rows, note) if rows else None


def _end(value: float, is_open: bool) -> str:
    return f"{value:.4g} (open)" if is_open else f"{value:.4g}"


def held_out_section(analysis: Analysis, assessment: Assessment) -> Section:
    """Roll-out by size and leave-one-out."""
    main = headline(analysis)
    blocks: list[Block] = []
    if assessment.steps:
        law = law_phrase(main[0])
        text = (
            f"Roll-out: {law} fitted to all runs up to a size and asked for every larger one, as in use. Errors are predicted minus "
            f"observed loss; covered: new runs within their {percent(analysis.options.level)} prediction interval."
        )
        caption = (
            f"Roll-out by size of {law}: error of every larger run, from few experts to many within a group, with the prediction interval "
            "of a new run. Above each group: how many of its runs the intervals cover (the bar reaches nought)."
        )
        blocks += [
            Paragraph(text),
            Figure("roll-out", caption, partial(_draw, "roll_out_errors", main, assessment.steps, analysis.options.level)),
        ]
        blocks.append(_roll_out_table(assessment))
    blocks.append(_scores_table(assessment.scores))
    return Section("Held out", tuple(blocks))


def _roll_out_table(assessment: Assessment) -> Table:
    rows: list[tuple[str, ...]] = []
    for router, steps in assessment.steps.items():
        for step in steps:
            start = (router, count(step.trained_up_to), count(step.size), f"{step.distance:.3g}")
            rows.append((*start, *_score_cells(step.score)) if step.score else (*start, step.reason or "no runs", *[""] * 5))
    heads = ("router", "fitted up to", "predicted", "times as large", "runs", "RMSE %", "mean error (nats)", "too low", "R2", "covered")
    return Table("Roll-out by size", heads, tuple(rows), "R2 below nought: the mean of these runs' own losses would have predicted better.")


def _score_cells(score: Score) -> tuple[str, ...]:
    return (
        str(score.runs),
        f"{score.rmse_percent:.2f}",
        f"{score.mean_error:+.4f}",
        f"{score.too_low}/{score.runs}",
        "none" if score.r2 is None else plain(score.r2, 3),
        "none" if score.covered is None else f"{score.covered}/{score.runs}",
    )


def _scores_table(scores: Sequence[FitScore]) -> Table:
    rows = tuple(
        (
            f"{score.result.router} {score.result.law.name}",
            str(score.result.fit.num_runs),
            str(score.result.law.num_parameters),
            f"{score.result.fit.rmse_log10:.5f}",
            "none" if score.held_out is None else f"{score.held_out.rmse_log10:.5f}",
            "none" if score.aicc is None else f"{score.aicc:.1f}",
            "none" if score.lack is None else f"{score.lack.ratio:.1f}",
            "none" if score.lack is None or score.lack.p_value is None else f"{score.lack.p_value:.1e}",
        )
        for score in scores
    )
    noise = next((score.noise for score in scores if score.noise), None)
    seeds = (
        f"Seed noise: SD {noise.sd_nats:.5f} nats per token ({noise.sd_log10:.6f} in log10), from {noise.runs} runs that differ in the "
        "seed alone. "
        if noise
        else "No runs differ in the seed alone, so noise cannot be told from lack of fit. "
    )
    note = seeds + (
        "AICc compares laws on the same runs and takes residuals for independent: with lack of fit it favours large laws. p: F test "
        "of lack of fit; small where the law is not the whole truth."
    )
    heads = ("fit", "runs", "params", "RMSE log10", "left one out", "AICc", "RMSE / seed noise", "p")
    return Table("Fit, leave-one-out and lack of fit", heads, rows, note)


def residuals_section(analysis: Analysis, assessment: Assessment) -> Section:
    """Residuals by figure and by trend."""
    main = headline(analysis)
    blocks: list[Block] = []
    if main and has_epc(main[0].law):
        caption = f"Residuals of {law_phrase(main[0])}, and each router's mean at every N and every E: a bend is lack of fit."
        blocks.append(_figure("residuals", caption, main))
    rows = tuple(
        (router, trend.column, f"{trend.slope:+.2g}", f"{trend.curvature:+.2g}", f"{100 * trend.share:.0f}%", f"{trend.p_value:.1e}")
        for router, trends in assessment.trends.items()
        for trend in trends
    )
    if rows:
        note = (
            "A parabola through the residuals of log10 loss along log10 of the column. Curvature above nought: losses bend upwards from "
            "the law, as with an irreducible floor. Share: of the residuals' variance. p: of slope and curvature both being nought."
        )
        heads = ("router", "along", "slope", "curvature", "share", "p")
        blocks.append(Table("Trends left in the residuals", heads, rows, note))
    return Section("Residuals", tuple(blocks))


_KINDS = {CHOICES: "other losses and fewer runs", TARGETS: "other columns of loss", STEPS: "along training"}


def sensitivity_section(assessment: Assessment) -> Section:
    """The headline law's figures under other choices."""
    blocks: list[Block] = [
        sensitivity_table(f"{router}: {_KINDS[kind]}", variants, on_terminal=False)
        for router, kinds in assessment.variants.items()
        for kind, variants in kinds.items()
    ]
    text = "What other choices would have given. A figure that one of them moves out of its interval rests on that choice."
    return Section("Sensitivity", (Paragraph(text), *blocks) if blocks else ())


def roll_out_finding(analysis: Analysis, assessment: Assessment) -> str:
    """How the headline law predicts the largest size from all smaller ones; empty where it was not rolled out."""
    last = [steps[-1] for steps in assessment.steps.values()]
    score = pooled([step for step in last if step.score is not None])
    if score is None:
        return ""
    law = law_phrase(headline(analysis)[0])
    side = {score.runs: "all too low", 0: "all too high"}.get(score.too_low, f"{score.too_low} of {score.runs} too low")
    interval = f"; its {percent(analysis.options.level)} prediction intervals cover"
    covered = "" if score.covered is None else f"{interval} {score.covered} of {score.runs} runs"
    return (
        f"Held out: fitted to smaller sizes, {law} predicts the runs at {count(last[0].size)} with a mean error of "
        f"{score.mean_error:+.3f} nats per token ({side}){covered}."
    )
