"""The attack benchmark's rows as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, isfinite
from pathlib import Path

from measured import Row, against, best_known, summarise

OURS = "guid-xmage"
TABLES = "<!-- attacks: begin -->", "<!-- attacks: end -->"
SUMMARY = "<!-- attack summary -->", "<!-- end -->"

_HEAD = (
    "| attack | success | median | mean | gap | best | forward | backward | seconds |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)
_DUELS = (
    "| network | norm | gradients | median | smallest median of the others | smaller | equal "
    "| larger | norm / best of the others |\n"
    "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
)


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """Rows of one network and norm, in the order of their first."""
    for network, norm in dict.fromkeys((row.network, row.norm) for row in rows):
        yield network, norm, [row for row in rows if (row.network, row.norm) == (network, norm)]


def table(rows: Sequence[Row]) -> str:
    """One network and norm: every attack, smallest median first."""
    best = best_known(list(rows))
    lines = [_HEAD]
    summaries = [(row, summarise(row, best)) for row in rows]
    for row, s in sorted(summaries, key=lambda pair: (pair[1].median, pair[1].mean)):
        name = f"{row.library} {row.attack}"
        lines.append(
            f"| {f'**{name}**' if row.library == OURS else name} | {s.success:.0%} "
            f"| {_number(s.median)} | {_number(s.mean)} | {_share(s.gap)} | {s.best:.0%} "
            f"| {row.forwards:.0f} | {row.backwards:.0f} | {row.seconds:.2g} |"
        )
    return "\n".join(lines)


def duels(rows: Sequence[Row]) -> str:
    """Each of our rows against the best of all other libraries together."""
    lines = [_DUELS]
    for network, norm, group in groups(rows):
        others = [row for row in group if row.library != OURS]
        if not others:
            continue
        best = best_known(group)
        medians = {f"{row.library} {row.attack}": summarise(row, best).median for row in others}
        least = min(medians, key=lambda name: medians[name])
        for row in group:
            if row.library == OURS:
                duel = against(row, others)
                lines.append(
                    f"| {network} | {norm} | {row.backwards:.0f} "
                    f"| {_number(summarise(row, best).median)} "
                    f"| {_number(medians[least])} ({least}) | {duel.smaller:.0%} "
                    f"| {duel.equal:.0%} | {duel.larger:.0%} | {duel.ratio:.4f} |"
                )
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """Everything, with a heading for each network and norm."""
    parts = ["### Ours against the best of all others together", duels(rows)]
    for network, norm, group in groups(rows):
        parts += [f"### {network}, {norm}", table(group)]
    return "\n\n".join(parts)


_SUMMARY = (
    "| network | norm | 40 gradients | most gradients | best other attack, with its gradients |\n"
    "| --- | --- | ---: | ---: | --- |"
)


def summary(rows: Sequence[Row]) -> str:
    """Median norm and, in brackets, gap: ours with two budgets, and the best other attack."""
    lines = [_SUMMARY]
    for network, norm, group in groups(rows):
        best = best_known(group)
        ours = {int(row.attack): row for row in group if row.library == OURS}
        others = [row for row in group if row.library != OURS]
        if not others or min(ours, default=0) == max(ours, default=0):
            continue
        other = min(others, key=lambda row: summarise(row, best).gap if all_found(row) else inf)
        few, many = min(ours, key=lambda budget: abs(budget - 40)), max(ours)
        lines.append(
            f"| {network} | {norm} | {_brief(ours[few], best)} | {_brief(ours[many], best)} "
            f"with {many} | {_brief(other, best)} {other.library} {other.attack} "
            f"with {other.backwards:.0f} |"
        )
    return "\n".join(lines)


def all_found(row: Row) -> bool:
    """Whether the attack succeeded on every image."""
    return all(value is not None and isfinite(value) for value in row.norms)


def _brief(row: Row, best: list[float]) -> str:
    found = summarise(row, best)
    return f"{_number(found.median)} ({_share(found.gap)})"


def insert(page: Path, text: str, marks: tuple[str, str]) -> None:
    """Write a text between the page's markers."""
    begin, end = marks
    whole = page.read_text(encoding="utf-8")
    if begin not in whole or end not in whole.split(begin, 1)[-1]:
        raise SystemExit(f"{page} has no lines {begin} and {end}")
    before, rest = whole.split(begin, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else "∞"


def _share(value: float) -> str:
    return f"{value:.1%}" if isfinite(value) else "–"
