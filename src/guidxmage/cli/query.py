"""guid-xmage query: questions about a data set, ready ones or SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidxmage.cli.common import AsJson, complain, one_sentence, print_json
from guidxmage.files.names import shown

EXAMPLES = """**Examples**

`guid-xmage query answers` — what can be asked

`guid-xmage query answers background` — which classes lean on the background?

`guid-xmage query answers "SELECT label, avg(score) FROM explained GROUP BY label"`

`guid-xmage query answers drift --other answers-of-another-network`
"""


@one_sentence
def query(  # noqa: PLR0917
    dataset: Annotated[Path, typer.Argument(help="A folder that `guid-xmage batch` made.")],
    question: Annotated[
        str | None,
        typer.Argument(
            help="A ready question by name, or SQL in quotation marks; none lists them."
        ),
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="A second data set, for drift; the table `other` of SQL.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Rows that are shown at most.")] = 50,
    seconds: Annotated[float, typer.Option(min=0, help="What the query may take.")] = 300.0,
    sql: Annotated[bool, typer.Option("--sql", help="Print the question's SQL and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a data set; nothing but its rows can be read, and nothing is written."""
    from guidxmage.dataset.ledger import Ledger
    from guidxmage.dataset.query import Dataset
    from guidxmage.dataset.questions import QUESTIONS, question_of

    if question is None:
        Ledger(dataset).head()  # which is there, or the error says so
        if as_json:
            print_json({name: {"title": q.title, "sql": q.sql} for name, q in QUESTIONS.items()})
            return
        for name, one in QUESTIONS.items():
            typer.echo(f"{name:<12} {one.title}")
        return
    if sql:
        typer.echo(question_of(question).sql)
        return
    opened = Dataset(dataset)
    if opened.missing:
        complain(f"{shown(dataset)} is not finished: {opened.missing} photos have no rows yet")
    second = None if other is None else Dataset(other)
    answer = opened.query(question, second, most=most + 1, seconds=seconds)
    cut = len(answer) > most
    if cut:
        from dataclasses import replace

        answer = replace(answer, rows=answer.rows[:most])
    if as_json:
        print_json(answer.to_json())
    else:
        typer.echo(str(answer))
    if cut:
        complain(f"there are more than {most} rows; --most shows more of them")
