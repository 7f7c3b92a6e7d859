"""What a person can do about an error, by its code. The error itself says what was wrong and where."""

from crucible.errors import CrucibleError, Failure

ADVICE = {
    "authentication_failed": "set the credential in the environment (tinkex: TINKER_API_KEY) and try again",
    "backend_unavailable": "check the service's address (tinkex: TINKER_BASE_URL) and that it runs;"
    " for a local one: nsai-work dev-server",
    "cold_optimizer": "the service restored weights without the optimizer; set recovery.on_cold_optimizer: continue"
    " to go on all the same",
    "data_changed": "put the data file back as it was, or submit a new job for the new data",
    "job_not_found": "nsai-work list shows the jobs of this store (NSAI_WORK_HOME, NSAI_WORK_DATABASE_URL)",
    "max_attempts_exceeded": "look at the checkpoints (nsai-work checkpoints ID), then: nsai-work retry ID",
    "no_checkpoint": "save earlier (checkpoint_policy.save_every), then: nsai-work retry ID",
    "out_of_credit": "top up the account; the job resumes by itself",
    "plugin_error": "nsai-work backends shows which plug-ins load and why others do not",
    "store_full": "free disk space; nothing was half-written",
    "store_unavailable": "check NSAI_WORK_DATABASE_URL and that the database runs; nsai-work doctor tells more",
    "unknown_backend": "nsai-work backends lists what is installed",
}


def advice_for(error: CrucibleError | Failure) -> str | None:
    """What to do, or None when the message already says it."""
    return ADVICE.get(error.code)
