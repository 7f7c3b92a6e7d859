"""Parameters that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id; a unique beginning or end of it will do.")]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="A job, or a list of jobs, as YAML or JSON.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Stop waiting after so many seconds (exit code 124).")]
