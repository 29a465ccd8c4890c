"""Models of Hugging Face's ``transformers``, from a folder on the disk; nothing is downloaded.

Letters: B samples, T tokens, C classes, V vocabulary, H×W pixels, Q queries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.errors import InputError, explained, unknown
from limbeck.imports import needed
from limbeck.students.zoo._parts import scaled
from limbeck.students.zoo.queried import Queried
from limbeck.students.zoo.sentence import MeanPooled

__all__ = ["files", "huggingface", "portable", "shrunk"]

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")
_CLASSIFIER = "sequence_classification"
_EMBEDDING = "embedding"
_DETECTOR, _SEGMENTER = "object_detection", "semantic_segmentation"
_WITH_CLASSES = (_CLASSIFIER, _DETECTOR, _SEGMENTER)
_HEADS = {
    _DETECTOR: "AutoModelForObjectDetection",
    _SEGMENTER: "AutoModelForSemanticSegmentation",
    _EMBEDDING: "AutoModel",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    _CLASSIFIER: "AutoModelForSequenceClassification",
}
_KINDS = {
    _DETECTOR: "detector",
    _SEGMENTER: "model for segmentation",
    _EMBEDDING: "encoder",
    "causal_lm": "language model",
    "seq2seq_lm": "model with encoder and decoder",
    _CLASSIFIER: "sequence classifier",
}


def huggingface(
    path: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    head: str = _CLASSIFIER,
    positions: int = 0,
    vocab: int = 0,
    padding: int = 0,
    end: int | None = None,
    classes: int = 0,
    **settings: Any,
) -> nn.Module:
    """Return a model of Hugging Face, its weights read from a folder.

    What the folder lacks, a classifier as a rule, begins at random. To take a classifier that was
    trained already as it is, name its file as the recipe's ``weights``. Needs the extra
    ``limbeck[text]``.

    Args:
        path: a folder with ``config.json`` and safetensors, as ``save_pretrained`` writes it.
        config: instead of a path, the entries of a ``config.json``; all weights begin at random.
        head: what the model answers: ``sequence_classification``, logits (B, C);
            ``causal_lm``, a language model, or ``seq2seq_lm``, one with an encoder and a decoder,
            logits (B, T, V); ``embedding``, the mean over a text's tokens, of length 1, (B, D). Of
            images (B, 3, H, W): ``object_detection``, boxes found by Q queries
            (:class:`limbeck.students.zoo.queried.Queried`); ``semantic_segmentation``, logits (B,
            C, h, w) of a map that may be coarser. A folder's layer for other classes is left out.
        positions: how long texts may get; the model must have as many.
        vocab: how many tokens the tokenizer has; the model must know as many, and a ``config``
            without ``vocab_size`` gets it.
        padding: for a language model made from a ``config``, the token that fills up rows.
        end: for such a model, the token at which a text ends, if that is known.
        classes: C, number of logits of a classifier, of pixels or of boxes.
        settings: further entries of the configuration, ``output_hidden_states: true`` for example.

    Raises:
        InputError: there is no model in the folder, or it classifies samples into another number of
            classes, or has too few positions or tokens.

    >>> tiny = {"model_type": "bert", "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16}
    >>> model = huggingface(config=tiny, classes=3)
    >>> model(input_ids=torch.tensor([[1, 2]])).logits.shape
    torch.Size([1, 3])
    >>> writer = huggingface(config={**tiny, "model_type": "llama"}, head="causal_lm")
    >>> writer(input_ids=torch.tensor([[1, 2]])).logits.shape
    torch.Size([1, 2, 50])
    """
    if (path is None) == (config is None):
        raise InputError(
            "a Hugging Face model without a path" if path is None else "a path and a config",
            expected="path, the folder of a model, or config",
            remedy="Name it: teacher.args.path.",
        )
    if head not in _HEADS:
        raise unknown("head", head, _HEADS)
    if head in _WITH_CLASSES and classes < 1:
        raise InputError(
            f"a classifier of {classes} classes",
            expected="one or more",
            remedy="For a language model set head to causal_lm or seq2seq_lm.",
        )
    transformers = needed("transformers", "text", "modeling_utils")
    wanted = _config(path, config, classes if head in _WITH_CLASSES else None)
    if head not in (*_WITH_CLASSES, _EMBEDDING):  # only generate() needs what a decoder remembers
        wanted = {"use_cache": False} | wanted
    if config is not None and vocab:
        wanted = {"vocab_size": vocab} | wanted
    if config is not None and head == "causal_lm" and end is not None:
        ends = {"pad_token_id": padding, "eos_token_id": end, "bos_token_id": end}
        wanted = ends | wanted
    wanted |= settings
    with _told(path, head), _silent(transformers):
        implementation = wanted.pop("attn_implementation", None)
        found = transformers.AutoConfig.for_model(**wanted)
        _check_positions(found, positions)
        _check_vocab(found, vocab)
        kind = getattr(transformers, _HEADS[head])
        more = {} if implementation is None else {"attn_implementation": implementation}
        if path is None:
            made: nn.Module = kind.from_config(found, **more)
        else:
            made = kind.from_pretrained(
                str(path),
                config=found,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=head in (_DETECTOR, _SEGMENTER),
                dtype=torch.float32,
                **more,
            )
    for name in getattr(made, "_keys_to_ignore_on_save", None) or ():
        # Waves of positions, as a Marian has them: parameters, but neither trained nor stored.
        if name in dict(made.named_parameters()):
            made.get_parameter(name).requires_grad_(False)
    if head == _DETECTOR:
        return Queried(made, classes)
    return MeanPooled(made) if head == _EMBEDDING else made


def portable(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that build the same model, its weights aside, without the folder."""
    if args.get("path") is None:
        return dict(args)
    rest = {name: value for name, value in args.items() if name != "path"}
    classes = args["classes"] if args.get("head", _CLASSIFIER) in _WITH_CLASSES else None
    return {"config": _config(args["path"], None, classes), **rest}


def files(args: Mapping[str, Any]) -> list[Path]:
    """Return the files that decide what the model is."""
    if args.get("path") is None:
        return []
    folder = Path(args["path"])
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def shrunk(model: Any, *, depth: float, width: float) -> nn.Module:
    """Return a Transformer with fewer layers, copied from ``model``, or narrower ones, new.

    The layers that stay are spread evenly, the first and the last among them: 0, 2, 5 of 6. All
    else is copied too. Narrower layers cannot be copied: everything begins at random then.

    Raises:
        InputError: the model does not say in the usual names how large it is.
    """
    config = type(model.config).from_dict(model.config.to_dict())
    config._attn_implementation = model.config._attn_implementation
    layers = _size(config, "num_hidden_layers")
    config.num_hidden_layers = scaled(layers, depth)
    if width < 1:
        heads, features = _size(config, "num_attention_heads"), _size(config, "hidden_size")
        config.num_attention_heads = scaled(heads, width)
        config.hidden_size = config.num_attention_heads * (features // heads)
        config.intermediate_size = scaled(_size(config, "intermediate_size"), width)
        if isinstance(getattr(config, "num_key_value_heads", None), int):
            shared = heads // config.num_key_value_heads
            config.num_key_value_heads = max(1, config.num_attention_heads // shared)
    kept = _spread(config.num_hidden_layers, layers)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = [config.layer_types[number] for number in kept]
    made: nn.Module = type(model)._from_config(config)
    if width == 1:
        made.load_state_dict(_kept(model, kept, layers))
    return made


def _config(
    path: str | Path | None, config: Mapping[str, Any] | None, classes: int | None
) -> dict[str, Any]:
    """Return the entries of a configuration, for so many classes; ``None`` if it has none."""
    if config is not None:
        found = dict(config)
    else:
        folder = Path(str(path))
        if not (folder / "config.json").is_file():
            raise InputError(
                f"there is no Hugging Face model in {folder}",
                expected="config.json and safetensors, as save_pretrained() writes them",
                remedy="Name it: teacher.args.path.",
            )
        with _told(path):
            loaded = needed("transformers", "text").AutoConfig.from_pretrained(
                str(folder), local_files_only=True
            )
        found = {"model_type": loaded.model_type, **loaded.to_diff_dict()}
        headed = any(str(name).endswith("ForSequenceClassification") for name in _heads(loaded))
        if classes is not None and headed and loaded.num_labels != classes:
            raise InputError(
                f"the model in {folder} tells {loaded.num_labels} classes apart",
                expected=f"{classes}, which the data has",
                remedy="Take a model for these classes, or one without a classifier.",
            )
    if "model_type" not in found:
        raise InputError(f"a config with {', '.join(found)}", expected="model_type: bert, say")
    dropped = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    kept = {k: v for k, v in found.items() if k not in dropped}
    return kept if classes is None else kept | _labels(found, classes)


def _labels(found: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Return what says how many classes there are; names are kept where their number fits."""
    names = found.get("id2label") or {}
    if len(names) == classes:
        return {"id2label": {int(key): value for key, value in names.items()}}
    return {"id2label": {n: f"LABEL_{n}" for n in range(classes)}} | {
        "label2id": {f"LABEL_{n}": n for n in range(classes)}
    }


def _heads(config: Any) -> list[str]:
    return list(config.architectures or [])


def _check_positions(config: Any, positions: int) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < positions:
        raise InputError(
            f"texts of up to {positions} tokens for a model with {most} positions",
            expected=f"at most {most} tokens",
            consequence="A longer text would end training.",
            remedy=f"Cut texts: --set data.args.length={most}.",
        )


def _check_vocab(config: Any, vocab: int) -> None:
    known = getattr(config, "vocab_size", None)
    if isinstance(known, int) and known < vocab:
        raise InputError(
            f"a tokenizer of {vocab} tokens for a model that knows {known}",
            expected=f"at most {known}",
            consequence="An unknown token would end training.",
            remedy="Take the tokenizer of the model's folder, or train a smaller one.",
        )


def _size(config: Any, name: str) -> int:
    found = getattr(config, name, None)
    if not isinstance(found, int):
        raise InputError(
            f"the configuration of {config.model_type} has no {name}",
            expected="a model that says in the usual names how large it is",
            remedy="Build the student from a config of its own.",
        )
    return found


def _spread(count: int, layers: int) -> list[int]:
    """Return which layers stay.

    >>> _spread(3, 6), _spread(6, 12), _spread(1, 6)
    ([0, 2, 5], [0, 2, 4, 7, 9, 11], [0])
    """
    return [round(place * (layers - 1) / max(1, count - 1)) for place in range(count)]


def _kept(model: nn.Module, kept: list[int], layers: int) -> dict[str, torch.Tensor]:
    """Return a model's weights with only some of its layers, numbered anew."""
    stacks = [
        f"{name}."
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == layers
    ]
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        stack = next((each for each in stacks if name.startswith(each)), None)
        if stack is None:
            state[name] = tensor
            continue
        number, _, rest = name.removeprefix(stack).partition(".")
        if int(number) in kept:
            state[f"{stack}{kept.index(int(number))}.{rest}"] = tensor
    return state


def _told(
    path: str | Path | None, head: str = _CLASSIFIER
) -> contextlib.AbstractContextManager[None]:
    """Say what is wrong with a folder or a configuration in our words."""
    return explained(
        f"no {_KINDS[head]} could be made from {path or 'this config'}",
        expected="config.json and safetensors, as save_pretrained() writes them",
    )


@contextlib.contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep the package from telling that the head is new, which it is meant to be."""
    logging = transformers.utils.logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
