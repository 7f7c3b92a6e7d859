"""The command ``nsai-work``. Each command imports what it needs when it runs, so that ``--help`` is quick."""


def main() -> None:
    """Run the command line of this process and exit with its code (see ``nsai_work.cli.exit_codes``)."""
    from nsai_work.cli.app import run_app

    run_app()
