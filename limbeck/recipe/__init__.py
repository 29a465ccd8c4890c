"""A recipe: the validated, immutable description of a run.

Recipes are YAML. User code enters as ``package.module:attribute``; nothing in a recipe is executed
otherwise. Unknown keys are errors.
"""

from limbeck.recipe.parts import (
    CompressPart,
    CutPart,
    DataPart,
    EvaluatePart,
    ExportPart,
    FormatName,
    KnowledgePart,
    LoraPart,
    ModelPart,
    Normalization,
    OnPolicyPart,
    PrunePart,
    QuantizePart,
    Recipe,
    ReusePart,
    Shrink,
    Steps,
    StudentPart,
    TeacherPart,
    TrainPart,
)
from limbeck.recipe.reading import bundled, differences, find, holds_run, load, parse, template

__all__ = [
    "CompressPart",
    "CutPart",
    "DataPart",
    "EvaluatePart",
    "ExportPart",
    "FormatName",
    "KnowledgePart",
    "LoraPart",
    "ModelPart",
    "Normalization",
    "OnPolicyPart",
    "PrunePart",
    "QuantizePart",
    "Recipe",
    "ReusePart",
    "Shrink",
    "Steps",
    "StudentPart",
    "TeacherPart",
    "TrainPart",
    "bundled",
    "differences",
    "find",
    "holds_run",
    "load",
    "parse",
    "template",
]
