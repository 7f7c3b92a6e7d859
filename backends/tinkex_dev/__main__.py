"""``python -m backends.tinkex_dev``: the development server as a standalone command."""

import typer

from backends.tinkex_dev.command import dev_server

if __name__ == "__main__":
    typer.run(dev_server)
