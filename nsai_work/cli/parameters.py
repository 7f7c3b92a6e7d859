"""Parameters that several commands take."""

from typing import Annotated

import typer

DEFAULT_BACKEND = "tinkex"

JobId = Annotated[
    str, typer.Argument(metavar="ID", help="Job ID, or a unique prefix or suffix of at least 4 characters.")
]
JobIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID...", help="Job IDs, or unique prefixes or suffixes of at least 4 characters."),
]
Tag = Annotated[str | None, typer.Option(help="All jobs with this tag, beside those with an ID.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoCheckData = Annotated[
    bool, typer.Option("--no-check-data", help="Leave the check of training data to the worker, for huge files.")
]
Timeout = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Stop waiting after this time, with exit code 124.")
]
