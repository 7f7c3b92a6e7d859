"""The history checker: reads what the parties of a run wrote down, and finds what must not happen.

    python -m tests.verify.check FOLDER [--effects FILE] [--complete]

FOLDER has a file ``party-PID.jsonl`` for each client and worker, and FILE is the log of effects of the dev server.
``--complete``: all jobs should have ended. Prints what it has read and each violation. Exit status: 0 without a
violation, 1 with one, 2 if the history cannot be read.

It imports nothing but the standard library, so that it shares no mistake with the product. It compares no clocks:
the order of a party's own acts is that of its lines, the order of owners is that of their fencing tokens, that of
operations their sequence numbers. Between owners only this is concluded: an owner reads the journal under its
fencing token, and whatever an earlier owner was told is written must be in it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.verify.history import History, Unreadable, Violation, read_history
from tests.verify.journal_rules import check_final_steps, check_loads, check_records
from tests.verify.ownership_rules import check_claims, check_ends, check_functions, check_owners, check_submits
from tests.verify.rollout_rules import check_computed_samples, check_samples, check_turns
from tests.verify.service_rules import check_answers, check_effects, check_intents

RULES = (
    check_submits,
    check_claims,
    check_ends,
    check_owners,
    check_loads,
    check_records,
    check_intents,
    check_answers,
    check_final_steps,
    check_effects,
    check_functions,
    check_turns,
    check_samples,
    check_computed_samples,
)


def check(history: History) -> list[Violation]:
    """Return all violations."""
    return [violation for rule in RULES for violation in rule(history)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--effects", type=Path)
    parser.add_argument("--complete", action="store_true")
    options = parser.parse_args(arguments)
    try:
        history = read_history(options.folder, options.effects, complete=options.complete)
        violations = check(history)
    except (Unreadable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    counts = Counter(f"{act['act']} {act['phase']}" for acts in history.parties.values() for act in acts)
    sys.stdout.write(f"{len(history.parties)} parties, {len(history.effects)} effects\n")
    sys.stdout.writelines(f"  {count:7} {name}\n" for name, count in sorted(counts.items()))
    sys.stdout.writelines(f"{violation}\n" for violation in violations)
    sys.stdout.write(f"{len(violations)} violations\n")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
