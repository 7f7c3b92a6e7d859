"""``python -m nsai_work.cli``: the command line without its script."""

from nsai_work.cli import main

if __name__ == "__main__":
    main()
