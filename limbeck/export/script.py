"""The few lines that run an ONNX file with onnxruntime and NumPy, without Limbeck and PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.data.scripted import Scripted as ScriptedReader
from limbeck.tasks import Scripted as ScriptedTask

__all__ = ["script"]

_FRAME = '''"""Runs {file} with onnxruntime and NumPy alone: python run.py {usage}

It takes {takes}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
if len(sys.argv) < 2:
    sys.exit(__doc__)
here = Path(__file__).parent
session = onnxruntime.InferenceSession(str(here / "{file}"), providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["limbeck"])
{inputs}
logits = session.run(["logits"], inputs)[0]
{answers}
'''
_ONE = 'inputs = {{"{name}": np.load(sys.argv[1]).astype("{dtype}")}}'
_SEVERAL = "inputs = dict(np.load(sys.argv[1]))"
_PLAIN = "print(json.dumps(logits.tolist()))"


def script(file: str, facts: Mapping[str, Any], reader: Any = None, task: Any = None) -> str:
    """Return a script in Python that runs a file which Limbeck exported as ONNX.

    Args:
        file: its name; it is to stand beside the script.
        facts: that it says of itself.
        reader: what makes its inputs of raw samples; one that is
            :class:`limbeck.data.scripted.Scripted` says how without Limbeck, otherwise the script
            reads arrays.
        task: one that is :class:`limbeck.tasks.Scripted` says how its answers are told, otherwise
            the script prints the logits.
    """
    takes = facts["inputs"]
    told = ", ".join(f"{name}: {one['dtype']} {one['shape']}" for name, one in takes.items())
    imports, usage = "", "INPUTS.npy" if len(takes) == 1 else "INPUTS.npz"
    if isinstance(reader, ScriptedReader):
        found = reader.script()
        imports, usage, told, lines = found.imports, found.usage, found.takes, found.lines
    elif len(takes) == 1:
        lines = _ONE.format(name=next(iter(takes)), dtype=next(iter(takes.values()))["dtype"])
    else:
        lines = _SEVERAL
    answers = task.script() if isinstance(task, ScriptedTask) else _PLAIN
    return _FRAME.format(
        file=file,
        usage=usage,
        takes=told,
        imports=f"{imports}\n" if imports else "",
        inputs=lines.rstrip(),
        answers=answers.rstrip(),
    )
