# One import a name: read by type checkers and, at run time, by crucible.runtime.lazy_names.
from nsai_work.client.extend import extend as extend
from nsai_work.client.handle import JobHandle as JobHandle
from nsai_work.client.submit import asubmit as asubmit
from nsai_work.client.submit import submit as submit
from nsai_work.client.submit import submit_many as submit_many
from nsai_work.job import Constraints as Constraints
from nsai_work.job import Job as Job
from nsai_work.job import Priority as Priority
from nsai_work.job import Resources as Resources
from nsai_work.lifecycle import JobStatus as JobStatus
from nsai_work.payloads import JobKind as JobKind
from nsai_work.policies import CheckpointPolicy as CheckpointPolicy
from nsai_work.policies import RetryPolicy as RetryPolicy
from nsai_work.settings import Settings as Settings
from nsai_work.version import __version__ as __version__

__all__: list[str]
