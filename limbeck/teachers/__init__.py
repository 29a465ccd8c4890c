"""Who knows: a module, a model of another framework, several as one, a store that replays one."""

from limbeck.teachers.contents import module_fingerprint
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.foreign import Foreign
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher
from limbeck.teachers.rehearsed import Rehearsed
from limbeck.teachers.replay import Replay
from limbeck.teachers.returns import Returns
from limbeck.teachers.served import Served
from limbeck.teachers.transcriber import Transcriber, write_transcripts

__all__ = [
    "Ensemble",
    "Foreign",
    "Knowing",
    "Rehearsed",
    "Replay",
    "Returns",
    "Served",
    "Teacher",
    "Transcriber",
    "module_fingerprint",
    "write_transcripts",
]
