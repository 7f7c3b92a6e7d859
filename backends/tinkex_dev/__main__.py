"""``python -m backends.tinkex_dev``: the development server without the rest of the command line."""

import typer

from backends.tinkex_dev.command import dev_server

if __name__ == "__main__":
    typer.run(dev_server)
