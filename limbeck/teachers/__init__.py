"""Who knows: a frozen module, a store that replays one."""

from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher, module_fingerprint
from limbeck.teachers.replay import Replay

__all__ = ["Knowing", "Replay", "Teacher", "module_fingerprint"]
