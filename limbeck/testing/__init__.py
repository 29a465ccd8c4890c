"""Public contract checks: for Limbeck's losses, teachers, methods and tasks, and for yours.

Each ``check_...`` tries everything that the rest of Limbeck relies on and raises one
:class:`ContractError` that lists all that does not hold.
"""

from limbeck.testing.findings import ContractError
from limbeck.testing.losses import check_loss
from limbeck.testing.methods import check_method
from limbeck.testing.tasks import check_task
from limbeck.testing.teachers import check_teacher
from limbeck.testing.waiting import WaitingError, never_waiting

__all__ = [
    "ContractError",
    "WaitingError",
    "check_loss",
    "check_method",
    "check_task",
    "check_teacher",
    "never_waiting",
]
