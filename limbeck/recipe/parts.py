"""The parts of a recipe and their keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from limbeck.recipe.compression import CompressPart, CutPart, PrunePart, QuantizePart, trained
from limbeck.recipe.shipping import EvaluatePart, ExportPart, FormatName
from limbeck.recipe.training import Auto, Fraction, Natural, Part, TrainPart

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
]

Steps = tuple[str | dict[str, int | float], ...]

_FILES = ("onnx", "keras", "saved_model")
_ORIGINS = ("build", *_FILES, "fit")
_OF_NEW_ONES = ("args", "weights", "trained", "lora", "reuse_classifier", "embeddings")
_OF_LEARNERS = ("lora", "reuse_classifier", "embeddings")


class Normalization(Part):
    """(x − mean) / std per channel, for images from 0 to 1.

    Attributes:
        mean: a number for each channel.
        std: a number above 0 for each channel.
        size: the height and width to which the model resizes images first, if they have others.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Natural | None = None


class DataPart(Part):
    """Where samples come from.

    Attributes:
        source: a source of Limbeck: ``digits``, ``parquet``, ``image_folder``, ``numpy``,
            ``huggingface``, ``interactions``, ``language``, ``speech``, ``text``.
        build: or a function of your own, ``package.module:function``, that returns the data.
        path: the folder or file that the source reads.
        args: further arguments of the source or the function.
        validation: the fraction cut off for validation, if the source brings none.
        test: the fraction cut off for testing, if the source brings none.
        seed: of these cuts and of the augmentation.
        augment: operations on training images, in order: ``flip``, ``crop: 4``, ``cutout: 8``,
            ``resized_crop: 224``; at the end perhaps ``mixup: 0.2`` or ``cutmix: 1.0``, which mix
            each sample with another, for teacher and student alike.
        normalize: what the student does to images first, and the teacher unless it has its own.
        limit: use at most so many training samples, and half as many for validation and for
            testing, to try things out.
        labelled: keep the labels of so many training samples. The teacher and the control learn
            from these alone, the control in as many steps as the student; the student also learns
            what the teacher says about all others.
    """

    source: str | None = None
    build: str | None = None
    path: Path | None = None
    args: dict[str, Any] = {}
    validation: Fraction | None = None
    test: Fraction | None = None
    seed: int = 0
    augment: Steps = ()
    normalize: Normalization | None = None
    limit: Natural | None = None
    labelled: Natural | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> DataPart:
        if (self.source is None) == (self.build is None):
            raise ValueError("give either source or build")
        return self


class ModelPart(Part):
    """A model.

    Attributes:
        build: a zoo model's name, or ``package.module:function`` that returns a module.
        args: its arguments; the zoo's also get the data's classes and image size.
        weights: a file to load: safetensors, or a checkpoint that holds nothing but tensors.
        normalize: what it does to images first, if not as the data part says.
    """

    build: str | None = None
    args: dict[str, Any] = {}
    weights: Path | None = None
    normalize: Normalization | None = None


class TeacherPart(ModelPart):
    """The teacher: taken as it is, or trained first.

    Exactly one of ``build``, ``onnx``, ``keras``, ``saved_model`` and ``fit`` says where it is.

    Attributes:
        build: a zoo model's name, or ``package.module:function`` that returns a teacher: a PyTorch
            module, trained here unless it has weights; an estimator with ``fit``, fitted here
            unless it is; anything with ``knowledge`` or ``predict_proba``, taken as it is.
        onnx: an ONNX file.
        keras: a ``.keras`` file, of Keras 3.
        saved_model: the folder of a TensorFlow SavedModel.
        fit: ``package.module:function`` that gets the training inputs and labels as NumPy arrays,
            and ``args``, and returns a fitted estimator or any other teacher.
        augment: what happens to images while a module is trained, if not as the data part says.
        train: how a module is trained if it has no weights: what differs from the student's
            training.
        inputs: the field of the samples that it reads, if not the student's.
        preprocess: ``package.module:function`` that it applies to its inputs first, instead of
            ``normalize``.
        layout: ``NHWC`` if it wants the channels of images at the end; of files.
        returns: what it answers: ``logits``, ``probabilities`` or ``values``; of files.
        output: the name of the output that is the answer, if it has several; of files.
        answers: whether its answers are about what is to be learnt. ``false`` for a teacher of
            other classes: then only its features and their relations can be matched, and its
            quality is not measured.
    """

    onnx: Path | None = None
    keras: Path | None = None
    saved_model: Path | None = None
    fit: str | None = None
    augment: Steps | None = None
    train: TrainPart = TrainPart()
    inputs: str = "inputs"
    preprocess: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    returns: Literal["logits", "probabilities", "values"] = "logits"
    output: str | None = None
    answers: bool = True

    @model_validator(mode="after")
    def _one_origin(self) -> TeacherPart:
        if len(self.origins) != 1:
            raise ValueError(f"give one of {', '.join(_ORIGINS)}")
        file = self.origins[0] in _FILES
        idle = [] if self.build is not None else ["weights", "augment", "train"]
        idle += ["args"] if file else ["layout", "returns", "output"]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing for a teacher from {self.origins[0]}")
        return self

    @property
    def origins(self) -> list[str]:
        """Which of the keys that say where it is are there."""
        return [name for name in _ORIGINS if getattr(self, name) is not None]


class Shrink(Part):
    """Fractions of the teacher's layers and channels (see :func:`limbeck.students.shrink`).

    Attributes:
        depth: of the layers.
        width: of the channels.
    """

    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    width: Annotated[float, Field(gt=0, le=1)] = 1.0


class ReusePart(Part):
    """A student that ends in the teacher's classifier: :func:`limbeck.students.reuse_classifier`.

    Attributes:
        factor: by how much the projector's inner width is smaller than the teacher's channels.
        student_maps: the student's module whose maps enter the projector.
        teacher_maps: the teacher's module whose maps they are to become.
    """

    factor: Natural = 2
    student_maps: str = "stage[-1]"
    teacher_maps: str = "stage[-1]"


class LoraPart(Part):
    """A student whose weights stay as they are, and that learns small additions to them.

    They are merged into the weights when it ships (see :class:`limbeck.students.Lora`).

    Attributes:
        rank: of the additions.
        alpha: they are scaled by ``alpha / rank``; 0 is twice the rank.
        dropout: of what enters them, while they learn.
        targets: how the names of the layers end that get some; or ``all-linear``.
    """

    rank: Natural = 8
    alpha: Annotated[float, Field(ge=0)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | tuple[str, ...] = "all-linear"


class StudentPart(ModelPart):
    """The student: a model of its own, the teacher's family made smaller, or the teacher pruned.

    Attributes:
        lora: learn additions to weights that are there already, from a folder or ``weights``; its
            control learns such additions too.
        shrink: derive it from the teacher instead of ``build``; it begins untrained.
        prune: or let it begin as the trained teacher, without its least important channels or
            layers. So does its control. Its images are normalised as the teacher's.
        reuse_classifier: whether it ends in a projector and the teacher's classifier, as
            ``method: simkd`` needs it; or how. Both ship with it. Its control has the same
            projector, and a classifier that it learns.
        embeddings: whether its embeddings begin as the teacher's, before that is trained here, cut
            to its width (see :func:`limbeck.students.inherit_embeddings`); its control's begin so
            too.
        trained: whether its ``weights`` are those of a student that has learnt already: it is only
            made smaller, exported and measured.
    """

    shrink: Shrink | None = None
    prune: CutPart | None = None
    lora: LoraPart | None = None
    reuse_classifier: bool | ReusePart = False
    embeddings: bool = False
    trained: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> StudentPart:
        if sum(given is not None for given in (self.build, self.shrink, self.prune)) != 1:
            raise ValueError("give one of build, shrink and prune")
        for name in _OF_NEW_ONES if self.prune is not None else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing beside prune")
        if self.lora is not None and self.reuse_classifier is not False:
            raise ValueError("lora means nothing beside reuse_classifier")
        if self.trained and self.weights is None:
            raise ValueError("a student that is trained already needs weights")
        for name in _OF_LEARNERS if self.trained else ():
            if getattr(self, name) is not False and getattr(self, name) is not None:
                raise ValueError(f"{name} means nothing for a student that is trained already")
        return self


class KnowledgePart(Part):
    """How the student gets at what the teacher knows.

    Attributes:
        store: compute it once and replay it, or run the teacher beside the student. ``auto``
            stores logits, up to 2 GiB, and runs the teacher for features.
        views: how many augmented views of each sample a store holds; epochs cycle through them.
            ``auto`` is one for each epoch, or one if there is no augmentation.
        codec: how answers are kept: ``half``, ``full``, ``top16``, ``sample64``, ``int8``, ...; for
            all taps, or one for each. A part of an answer is kept at the temperature at which the
            method compares it, if none is said.
        batch_size: samples that the teacher sees at once.
        rows_per_shard: samples in a file of the store.
        produce: whether the teacher first produces a text for each training sample (Kim, Rush 2016,
            arXiv:1606.07947), or boxes, which the student learns in the place of the label, beside
            what the method matches; for tasks whose models write, and ``detection``. The control
            learns the labels.
    """

    store: bool | Auto = "auto"
    views: Natural | Auto = "auto"
    codec: str | dict[str, str] = "half"
    batch_size: Natural = 256
    rows_per_shard: Natural = 16384
    produce: bool = False


class OnPolicyPart(Part):
    """Batches that the student writes itself (see :class:`limbeck.distill.OnPolicy`).

    The control, which has no teacher, never does. Their draws follow the run's seeds.

    Attributes:
        fraction: of the steps, above 0 and at most 1.
        temperature: at which the student draws its tokens.
        mix: the teacher's share of the distribution from which each token is drawn.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 1.0
    mix: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Recipe(Part):
    """A run from data to report.

    Attributes:
        name: of the run; its folder by default.
        about: one line for lists.
        task: ``name`` (or ``package.module:class``) and arguments of what a batch means.
        data: where samples come from.
        teacher: who knows.
        knowledge: how the student gets at it.
        student: who learns.
        method: one method (its name, or ``name`` and arguments), or several that add up; a
            ``match`` is one too.
        label_weight: the label's weight, if not as the method says.
        on_policy: how many of its batches the student writes itself, for the teacher to judge; for
            tasks whose models write.
        train: how the student is trained, with a teacher and without.
        control: whether the same student is also trained without a teacher.
        seeds: one student (and one control) for each.
        compress: how the student is made smaller after it has learnt, step by step: a list of
            ``prune`` and ``quantize``, each alone or with its options.
        export: the formats in which the student (and what it was made into) is written: ``onnx``,
            ``program`` (``torch.export``), ``executorch`` or ``huggingface``; a list of them, or a
            mapping of them to options.
        evaluate: what is measured.
    """

    name: str
    about: str = ""
    task: dict[str, Any] = {"name": "classification"}
    data: DataPart
    teacher: TeacherPart
    knowledge: KnowledgePart = KnowledgePart()
    student: StudentPart
    method: tuple[dict[str, Any], ...] = ({"name": "kd"},)
    label_weight: Annotated[float, Field(ge=0)] | None = None
    on_policy: OnPolicyPart | None = None
    train: TrainPart = TrainPart()
    control: bool = True
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    compress: tuple[CompressPart, ...] = ()
    export: dict[FormatName, ExportPart] = {}
    evaluate: EvaluatePart = EvaluatePart()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        """Let a method stand alone or as its name, and the teacher train as the student does."""
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        method = filled.get("method")
        if isinstance(method, (Mapping, str)):
            method = [method]
        if isinstance(method, (list, tuple)):
            filled["method"] = [{"name": m} if isinstance(m, str) else m for m in method]
        if "compress" in filled:
            filled["compress"] = trained(_steps(filled["compress"]), filled.get("train") or {})
        if isinstance(filled.get("export"), (str, list, tuple)):
            formats = _steps(filled["export"])
            filled["export"] = {name: options for each in formats for name, options in each.items()}
        teacher, train = filled.get("teacher"), filled.get("train") or {}
        if isinstance(teacher, Mapping) and teacher.get("build") and isinstance(train, Mapping):
            own = teacher.get("train") or {}
            filled["teacher"] = dict(teacher) | {"train": {**train, **own}}
        student = filled.get("student")
        seen = teacher.get("normalize") if isinstance(teacher, Mapping) else None
        if seen and isinstance(student, Mapping) and student.get("prune"):
            filled["student"] = dict(student) | {"normalize": student.get("normalize") or seen}
        return filled

    @model_validator(mode="after")
    def _opset_of_onnx(self) -> Recipe:
        for name, options in self.export.items():
            if options.opset is not None and name != "onnx":
                raise ValueError(f"export.{name}.opset means nothing: opsets are of onnx")
            if options.bits is not None and name != "executorch":
                raise ValueError(
                    f"export.{name}.bits means nothing: integers for onnx are made by "
                    "compress: [quantize], for executorch by export"
                )
        return self

    @model_validator(mode="after")
    def _one_student_for_each(self) -> Recipe:
        if self.student.trained and self.control:
            raise ValueError("a student that is trained already has no control: say control: false")
        if self.student.trained and len(self.seeds) > 1:
            raise ValueError("a student that is trained already is one: give one seed")
        return self

    @property
    def learns(self) -> bool:
        """Whether anything learns from the teacher: the student, or what is made of it."""
        again = any(
            step.prune is not None or (step.quantize and step.quantize.scheme == "aware")
            for step in self.compress
        )
        return again or not self.student.trained

    def as_yaml(self) -> str:
        """Return the recipe with everything that was left to defaults."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


def _steps(found: Any) -> Any:
    """Return a list in which each step is a mapping of its name to its options.

    >>> _steps(["onnx", {"quantize": {"bits": 8}}]), _steps("onnx")
    ([{'onnx': {}}, {'quantize': {'bits': 8}}], [{'onnx': {}}])
    """
    listed = [found] if isinstance(found, (str, Mapping)) else found
    if not isinstance(listed, (list, tuple)):
        return found
    return [step if isinstance(step, Mapping) else {str(step): {}} for step in listed]
