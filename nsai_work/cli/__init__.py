"""The command line ``nsai-work``. Commands import their dependencies when they run, so that ``--help`` is fast."""


def main() -> None:
    """Run the command line of this process and exit with its exit code (``nsai_work.cli.exit_codes``)."""
    from nsai_work.cli.app import run_app

    run_app()
