"""The judge: what transformers makes of a model's folder. Nothing of the folder is run, and no hub is asked."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpoint_tools.families.config_json import fields_for
from checkpoint_tools.families.family import Family, Fields, Judged, Piece, Places
from checkpoint_tools.families.registry import FAMILIES
from checkpoint_tools.families.windows import FULL, SLIDING
from checkpoint_tools.prompts import Prompts
from checkpoint_tools.their_tensors import TheirTensors
from harness.config.model import ModelConfig
from harness.errors import CheckpointError, UsageError
from harness.model.rotary import as_in_windows, frequencies

OLDEST_TRANSFORMERS = (5, 3)
"""Older versions run code out of a `config.json` (CVE-2026-4372)."""
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""The ids of special tokens change no logits; transformers warns of those beyond the vocabulary of a small model."""


def require_shapes(theirs: TheirTensors) -> None:
    """Check that the model that transformers would build has the same tensors with the same shapes.

    Raises:
        CheckpointError: The folder does not hold that model, or transformers refuses its `config.json`.
    """
    with torch.device("meta"):
        wanted = _built(theirs, _config(theirs, None)).state_dict()
    if not theirs.model.untie_embeddings_and_output_weights:
        wanted.pop("lm_head.weight", None)
    found: dict[str, tuple[int, ...]] = {}
    left = dict.fromkeys(theirs.names)
    for move in theirs.family.moves(theirs.model):
        if move.built is not None and left.keys() >= set(move.theirs):
            parts = {name: _without_values(theirs, name) for name in move.theirs}
            found[move.built] = tuple(move.joined(parts.__getitem__, theirs.model).shape)
            left = {name: None for name in left if name not in parts}
    for name in left:
        judged = _judged(theirs, name, _without_values(theirs, name))
        found |= {own: _shape_of_whole(given, wanted.get(own)) for own, given in judged.items()}
    problems = [
        f"{name}: {found.get(name, 'missing')}, transformers wants {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if found.get(name) != tuple(tensor.shape)
    ]
    problems += [f"{name}: transformers knows no such tensor" for name in found if name not in wanted]
    if problems:
        raise CheckpointError(f"{theirs.path} is not the model of its config.json:\n  " + "\n  ".join(problems[:10]))


def _shape_of_whole(given: torch.Tensor | Piece, wanted: torch.Tensor | None) -> tuple[int, ...]:
    """Return the shape of a tensor; of a piece that of the whole where it fits into it, and else its own."""
    if not isinstance(given, Piece):
        return tuple(given.shape)
    if wanted is None or given.number >= len(wanted) or wanted[given.number, given.rows].shape != given.tensor.shape:
        return tuple(given.tensor.shape)
    return tuple(wanted.shape)


def _without_values(theirs: TheirTensors, name: str) -> torch.Tensor:
    shape, dtype = theirs.described(name)
    return torch.empty(shape, dtype=dtype, device="meta")


def require_frequencies(theirs: TheirTensors, model: ModelConfig, bound: float) -> None:
    """Check that the rotary frequencies of transformers, and what it multiplies rotated numbers with, equal ours.

    Raises:
        CheckpointError: They are not.
    """
    widths = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
    small: Fields = {"vocab_size": 8, **{key: 8 for key in widths if key in theirs.fields}}
    for kind, ours in _rotations(theirs, model).items():
        of_kind = small if kind is None else {**small, "layer_types": [kind]}
        judge = _built(theirs, _config(theirs, 1, of_kind))
        theirs_of: Any = next(module for name, module in judge.named_modules() if name.endswith("rotary_emb"))
        prefix = "" if kind is None else f"{kind}_"
        theirs_d = getattr(theirs_of, f"{prefix}inv_freq").cpu().float()
        scaling = getattr(theirs_of, f"{prefix}attention_scaling")
        ours_d = frequencies(ours.rotary_size, ours.rotary_base, ours.rope_scaling)
        wanted = ours.rope_scaling.magnification if ours.rope_scaling is not None else 1.0
        is_same = ours_d.shape == theirs_d.shape and torch.allclose(ours_d, theirs_d, rtol=bound, atol=0.0)
        if not is_same or not math.isclose(scaling, wanted, rel_tol=bound):
            raise CheckpointError(
                f"{theirs.path} rotates by other frequencies than the checkpoint: rope_theta or rope_scaling of its "
                "config.json are not those of the model."
            )


def _rotations(theirs: TheirTensors, model: ModelConfig) -> dict[str | None, ModelConfig]:
    """Return the model as it rotates, by the kind of layer where transformers tells them apart."""
    if model.position_embedding_type != "rope":
        return {}
    if not theirs.family.rotates_apart_in_windows:
        return {None: model}
    return {FULL: model, SLIDING: model if model.window_rotary_base is None else as_in_windows(model)}


def trace(theirs: TheirTensors, prompts: Prompts, num_layers: int) -> dict[str, torch.Tensor]:
    """Return the trace of the first layers of the model, through transformers in fp32."""
    model = load(theirs, num_layers)
    at = theirs.family.places if theirs.family.judge is None else Places()
    rows = zip(prompts.tokens_BS, prompts.positions_BS, strict=True)
    traces = [_trace(model, tokens[None], positions[None], num_layers, at) for tokens, positions in rows]
    return {place: torch.cat([found[place] for found in traces]) for place in traces[0]}


def _trace(
    model: Any,  # noqa: ANN401 (a model of transformers)
    tokens_BS: torch.Tensor,
    positions_BS: torch.Tensor,
    num_layers: int,
    at: Places,
) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    places = {"embedding": at.embedding}
    places |= {f"layer {layer}": f"{at.layers}.{layer}" for layer in range(num_layers)}
    places["final norm"] = at.final_norm
    hooks = [model.get_submodule(path).register_forward_hook(_keep(kept, name)) for name, path in places.items()]
    with torch.no_grad():
        # Without a mask transformers would take every gap between positions for the begin of another text.
        mask_BS = torch.ones_like(tokens_BS)
        output = model(input_ids=tokens_BS, position_ids=positions_BS, attention_mask=mask_BS, use_cache=False)
        kept["logits"] = output.logits.float()
    for hook in hooks:
        hook.remove()
    return {name: kept[name] for name in (*places, "logits")}


def load(theirs: TheirTensors, num_layers: int | None = None) -> Any:  # noqa: ANN401 (a model of transformers)
    """Return the model as transformers loads it, in fp32 on the CPU, or its first layers.

    Raises:
        CheckpointError: The package transformers misses something, or finds something that it does not know.
    """
    config = _config(theirs, num_layers)
    if theirs.family.judge is not None:
        return _load_through_another(theirs, config)
    make, settings = _class("AutoModelForCausalLM").from_pretrained, _class("GenerationConfig")()
    with _quiet(), _refusal_told(theirs):
        model, report = make(
            theirs.path,
            config=config,
            generation_config=settings,  # the folder's own may be damaged, and says nothing of the function
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])]):
        raise CheckpointError(f"transformers misses tensors in {theirs.path}: {missing[:5]}.")
    return model.eval()


def generation_problem(folder: Path) -> str | None:
    """Return why transformers cannot read the `generation_config.json` of a folder; None if it can."""
    return _problem(lambda: _class("GenerationConfig").from_pretrained(folder, local_files_only=True))


def require_loadable(folder: Path, family: Family) -> None:
    """Check that a user's `from_pretrained` takes the settings of a written folder. The weights were compared before.

    Raises:
        CheckpointError: It refuses them.
    """

    def build() -> None:
        config = _class("AutoConfig").from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            _class("AutoModelForCausalLM").from_config(config)

    problem = generation_problem(folder)
    if problem is None and family.judge is None:  # transformers does not know the others
        problem = _problem(build)
    if problem is not None:
        raise CheckpointError(f"transformers could not load the written settings: {problem} It was not published.")


def _problem(read: Callable[[], object]) -> str | None:
    """Return what transformers says against what it is asked to read; None if it takes it."""
    try:
        with _quiet():
            read()
    except UsageError:  # it is not installed, or too old
        raise
    except Exception as error:  # noqa: BLE001 (the library's own checks raise many kinds)
        return " ".join(str(error).split())[:300]
    return None


def _load_through_another(theirs: TheirTensors, config: Any) -> nn.Module:  # noqa: ANN401
    model = _built(theirs, config)
    own = model.state_dict()
    loaded: set[str] = set()
    for name in theirs.names:
        for key, given in _judged(theirs, name, theirs.read(name)).items():
            if key in own:
                if isinstance(given, Piece):
                    own[key][given.number, given.rows].copy_(given.tensor)
                else:
                    own[key].copy_(given)
                loaded.add(key)
    tied = set() if theirs.model.untie_embeddings_and_output_weights else {"lm_head.weight"}
    if missing := sorted(set(own) - loaded - tied):
        raise CheckpointError(f"{theirs.path} lacks tensors: {missing[:5]}.")
    return model.float().eval()


def _judged(theirs: TheirTensors, name: str, tensor: torch.Tensor) -> Judged:
    judge = theirs.family.judge
    return {name: tensor} if judge is None else judge(name, tensor, theirs.model)


def _config(theirs: TheirTensors, num_layers: int | None, changes: Fields | None = None) -> Any:  # noqa: ANN401
    """Return the configuration from the keys that say what the model computes, never from the folder's code.

    Raises:
        CheckpointError: The package transformers refuses it.
    """
    family, fields = theirs.family, theirs.fields
    if family.judge is not None:
        judging, others = family.judged_as(theirs.model)
        family, fields = FAMILIES[judging], fields_for(theirs.model, FAMILIES[judging], others)
    settings = {key: value for key, value in fields.items() if key not in ("model_type", "architectures")}
    settings |= {**_NO_TOKENS, "dtype": torch.float32}
    if num_layers is not None:
        settings[family.layers_key] = num_layers
        if "layer_types" in settings:
            settings["layer_types"] = settings["layer_types"][:num_layers]
    make = _class("AutoConfig").for_model
    with _refusal_told(theirs):
        return make(family.model_type, **{**settings, **(changes or {})})


def _built(theirs: TheirTensors, config: Any) -> nn.Module:  # noqa: ANN401
    """Return the model of a configuration, with weights of its own."""
    make = _class("AutoModelForCausalLM").from_config
    with _refusal_told(theirs):
        model: nn.Module = make(config, attn_implementation="eager")
    return model


@contextmanager
def _refusal_told(theirs: TheirTensors) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library's own checks raise many kinds
        problem = " ".join(str(error).split())[:300]
        raise CheckpointError(f"transformers refuses {theirs.path}: {problem}") from error


def _keep(kept: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:  # noqa: ANN401 (a tensor, or a tuple with it)
        kept[name] = (output[0] if isinstance(output, tuple) else output).detach().float()

    return keep


def _class(name: str) -> Any:  # noqa: ANN401 (a class of transformers)
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            "A conversion is proven by transformers, which is not installed. Install the project with its `convert` "
            "extra."
        ) from error
    if tuple(int(part) for part in library.__version__.split(".")[:2]) < OLDEST_TRANSFORMERS:
        raise UsageError(
            f"transformers {library.__version__} may run code out of a config.json (CVE-2026-4372). Install 5.3 or "
            "newer."
        )
    return getattr(library, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and its list of the layers that a shorter model leaves out."""
    logging = importlib.import_module("transformers.utils.logging")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
