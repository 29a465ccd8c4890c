"""A teacher behind an OpenAI-compatible server.

pace, patience, client: asking. cost, progress, journal: what it costs, and what is kept of it.
prompting, choices: questions and answers. answers, choosing, reading: the three ways to teach.
"""

from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.choosing import Choosing
from limbeck.teachers.served.cost import Estimate, Usage
from limbeck.teachers.served.patience import UnansweredError
from limbeck.teachers.served.reading import Reading
from limbeck.teachers.served.server import Served

__all__ = ["Answers", "Choosing", "Estimate", "Reading", "Served", "UnansweredError", "Usage"]
