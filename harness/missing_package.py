"""Says which optional package a command needs, where its import fails: one line in the place of a traceback."""

from __future__ import annotations

from collections.abc import Mapping

EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "apprise": ("apprise", ("alerts",)),
    "datatrove": ("datatrove", ("data-clean",)),
    "fasteners": ("fasteners", ("data-clean",)),
    "fastokens": ("fastokens", ("data-fast",)),
    "fasttext": ("fasttext-numpy2-wheel", ("data-clean",)),
    "fsspec": ("fsspec", ("data-fast",)),
    "gigatoken": ("gigatoken", ("data-fast",)),
    "google": ("protobuf", ("data", "convert")),
    "matplotlib": ("matplotlib", ("plot",)),
    "megatron": ("megatron-core", ("train",)),
    "numpy": ("numpy", ("data", "train")),
    "onnxruntime": ("onnxruntime", ("data-quality",)),
    "prometheus_client": ("prometheus-client", ("prometheus",)),
    "psutil": ("psutil", ("train",)),
    "py3langid": ("py3langid", ("data-clean",)),
    "pyarrow": ("pyarrow", ("data-fast",)),
    "pypdfium2": ("pypdfium2", ("data-web",)),
    "ray": ("ray", ("data-ray",)),
    "rensa": ("rensa", ("data-clean",)),
    "safetensors": ("safetensors", ("convert",)),
    "sentencepiece": ("sentencepiece", ("data", "convert")),
    "tensorboard": ("tensorboard", ("train",)),
    "tiktoken": ("tiktoken", ("data-fast",)),
    "tokenizers": ("tokenizers", ("data",)),
    "torch": ("torch", ("train",)),
    "trafilatura": ("trafilatura", ("data-web",)),
    "transformer_engine": ("transformer-engine", ("transformer-engine",)),
    "transformers": ("transformers", ("convert",)),
    "warcio": ("warcio", ("data-web",)),
    "zstandard": ("zstandard", ("data",)),
}
"""For every optional module the package that has it, and the extras that bring the package, the smallest first."""


def describe_missing(error: ImportError) -> str | None:
    """Return what to say of an import that failed; None if it is not of an optional package, and so a bug."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    package, extras = EXTRAS[module]
    named = " or ".join(f"`{extra}`" for extra in extras)
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return (
            f"this command needs the Python package {package}, which is not installed. Install the project with its "
            f"{named} extra."
        )
    return (
        f"this command needs the Python package {package}, which is installed and cannot be imported ({error}). "
        f"Install the project with its {named} extra, in the versions of its constraints.txt."
    )
