"""``python -m nsai_work.cli``: the same command without its script."""

from nsai_work.cli import main

if __name__ == "__main__":
    main()
