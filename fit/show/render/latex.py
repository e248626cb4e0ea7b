"""A table as LaTeX (booktabs): each row's values, and its intervals below them in small print."""

import re
import unicodedata

from fit.show.document import Table, right_aligned

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "†": r"\textdagger{}", "·": r"\textperiodcentered{}", "–": "--", "—": "---", "’": "'", "°": r"\textdegree{}",
    "−": "$-$", "∞": r"$\infty$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "×": r"$\times$", "±": r"$\pm$", "→": r"$\to$",
    "²": "$^2$", "√": r"$\surd$",
}  # fmt: skip
_INFINITY = r"\infty"
_ACCENTS = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde"}
_GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
})  # fmt: skip
_CAPITALS = {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"}
_INDEXED = r"(?:alpha|beta|gamma|delta|[A-Za-z]{1,2})_[A-Za-z0-9]+"
_NAME = re.compile(rf"{_INDEXED}|[abcdk]")
"""Names of parameters, which are set as mathematics."""


def booktabs(table: Table, label: str) -> str:
    """A `table` environment; needs `\\usepackage{booktabs}` and nothing else. Text is escaped, names of parameters are mathematics."""
    heads = [name(head) for head in table.columns]
    aligned = "".join("r" if is_right else "l" for is_right in right_aligned(table.rows, len(heads)))
    lines = [line for row in table.rows for line in _lines(row)]
    note = [f"  \\par\\smallskip\\footnotesize {prose(table.note)}"] if table.note else []
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{prose(table.title)}}}",
            f"  \\label{{{label}}}",
            f"  \\begin{{tabular}}{{{aligned}}}",
            r"    \toprule",
            f"    {' & '.join(heads)} \\\\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            *note,
            r"\end{table}",
        ]
    )


def _lines(row: tuple[str, ...]) -> list[str]:
    """A row of values, and one of their intervals if there is any."""
    split = [re.fullmatch(r"(.*?) (\[.*\])(.*)", cell, flags=re.DOTALL) for cell in row]
    values = [_number(found[1] + found[3]) if found else _number(cell) for found, cell in zip(split, row, strict=True)]
    if not any(split):
        return [f"{' & '.join(values)} \\\\"]
    # Braces keep LaTeX from reading a row that begins with "[" as the option of the line break before it.
    intervals = [f"{{\\scriptsize {_number(found[2])}}}" if found else "" for found in split]
    return [f"{' & '.join(values)} \\\\", f"{' & '.join(intervals)} \\\\[2pt]"]


def _number(text: str) -> str:
    """Text with its numbers' signs and exponents as mathematics."""
    parts = re.split(r"((?<![\w.])-(?:\d[\d.]*|inf\b)|(?<![\w.])\d[\d.]*e-?\d+|\binf\b)", " ".join(text.split()))
    return "".join(_escape(part) if k % 2 == 0 else _mathematics(part) for k, part in enumerate(parts))


def _mathematics(text: str) -> str:
    mantissa, mark, exponent = text.partition("e")
    return f"${mantissa} \\times 10^{{{exponent}}}$" if mark else f"${text.replace('inf', _INFINITY)}$"


def name(text: str) -> str:
    """A column's head: `E_start` becomes $E_{\\mathrm{start}}$, `alpha_N` $\\alpha_{N}$; other text is escaped."""
    if not _NAME.fullmatch(text):
        return escape(text)
    base, _, index = text.partition("_")
    if not index:
        return f"${base}$"
    base = f"\\{base}" if base in _GREEK or base == "ln" else base
    return f"${base}_{{{index if len(index) == 1 else _upright(index)}}}$" if base != "\\ln" else f"$\\ln {index}$"


def _upright(index: str) -> str:
    return f"\\mathrm{{{index}}}"


def prose(text: str) -> str:
    """Running text, in which names of parameters with an index are mathematics."""
    parts = re.split(rf"\b({_INDEXED})\b", " ".join(text.split()))
    return "".join(name(part) if k % 2 else _escape(part) for k, part in enumerate(parts))


def escape(text: str) -> str:
    """Plain text for LaTeX: specials escaped, Greek letters and letters with a hat or a bar as mathematics."""
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    found: list[str] = []
    for character in decomposed:
        if character in _ACCENTS and found:
            found.append(_accented(found.pop(), _ACCENTS[character]))
        else:
            found.append(_SPECIAL.get(character) or _letter(character))
    return "".join(found)


def _accented(letter: str, accent: str) -> str:
    return f"$\\{accent}{{{letter.strip('$')}}}$"


def _letter(character: str) -> str:
    """Greek letters as mathematics; what LaTeX's default fonts lack is written as its code point."""
    if character.isascii() and character.isprintable():
        return character
    words = unicodedata.name(character, "").split()
    if len(words) == 4 and words[0] == "GREEK" and words[2] == "LETTER":
        greek = words[3].lower().replace("lamda", "lambda")
        if words[1] == "SMALL" and greek in _GREEK:
            return "o" if greek == "omicron" else f"$\\{greek}$"
        if words[1] == "CAPITAL" and greek.capitalize() in _CAPITALS:
            return f"$\\{greek.capitalize()}$"
    composed = unicodedata.normalize("NFC", character)
    return composed if unicodedata.category(composed)[0] == "L" else f"[U+{ord(character):04X}]"
