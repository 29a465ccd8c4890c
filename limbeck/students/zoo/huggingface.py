"""Models of Hugging Face's ``transformers``, from a folder on the disk; nothing is downloaded.

Letters: B samples, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.imports import needed
from limbeck.students.zoo._parts import scaled

__all__ = ["files", "huggingface", "portable", "shrunk"]

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")


def huggingface(
    path: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    positions: int = 0,
    classes: int,
    **settings: Any,
) -> nn.Module:
    """Return a sequence classifier of Hugging Face, its weights read from a folder.

    What the folder lacks, a head as a rule, begins at random. To take a classifier that was trained
    already as it is, name its file as the recipe's ``weights``. Needs the extra ``limbeck[text]``.

    Args:
        path: a folder with ``config.json`` and safetensors, as ``save_pretrained`` writes it.
        config: instead of a path, the entries of a ``config.json``; all weights begin at random.
        positions: how long texts may get; the model must have as many.
        classes: C, number of logits.
        settings: further entries of the configuration, ``output_hidden_states: true`` for example.

    Raises:
        InputError: there is no model in the folder, or it has a head for another number of classes,
            or too few positions.

    >>> tiny = {"model_type": "bert", "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16}
    >>> model = huggingface(config=tiny, classes=3)
    >>> model(input_ids=torch.tensor([[1, 2]])).logits.shape
    torch.Size([1, 3])
    """
    if (path is None) == (config is None):
        raise InputError(
            "a Hugging Face model without a path" if path is None else "a path and a config",
            expected="path, the folder of a model, or config",
            remedy="Name it: teacher.args.path.",
        )
    transformers = needed("transformers", "text")
    wanted = _config(path, config, classes) | settings
    with _told(path), _silent(transformers):
        implementation = wanted.pop("attn_implementation", None)
        found = transformers.AutoConfig.for_model(**wanted)
        _check_positions(found, positions)
        kind = transformers.AutoModelForSequenceClassification
        more = {} if implementation is None else {"attn_implementation": implementation}
        if path is None:
            made: nn.Module = kind.from_config(found, **more)
        else:
            made = kind.from_pretrained(
                str(path),
                config=found,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                **more,
            )
    return made


def portable(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that build the same model, its weights aside, without the folder."""
    if args.get("path") is None:
        return dict(args)
    rest = {name: value for name, value in args.items() if name != "path"}
    return {"config": _config(args["path"], None, args["classes"]), **rest}


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
    made: nn.Module = type(model)._from_config(config)
    if width == 1:
        kept = _spread(config.num_hidden_layers, layers)
        made.load_state_dict(_kept(model, kept, layers))
    return made


def _config(
    path: str | Path | None, config: Mapping[str, Any] | None, classes: int
) -> dict[str, Any]:
    """Return the entries of a configuration, for so many classes."""
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
        if headed and loaded.num_labels != classes:
            raise InputError(
                f"the model in {folder} tells {loaded.num_labels} classes apart",
                expected=f"{classes}, which the data has",
                remedy="Take a model for these classes, or one without a classifier.",
            )
    if "model_type" not in found:
        raise InputError(f"a config with {', '.join(found)}", expected="model_type: bert, say")
    dropped = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    return {k: v for k, v in found.items() if k not in dropped} | _labels(found, classes)


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


@contextlib.contextmanager
def _told(path: str | Path | None) -> Iterator[None]:
    """Say what is wrong with a folder or a configuration in our words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what is wrong with a folder can raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"no sequence classifier could be made from {path or 'this config'}: {reason}",
            expected="config.json and safetensors, as save_pretrained() writes them",
        ) from error


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
