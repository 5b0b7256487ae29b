"""Silences messages of libraries on which a user cannot act. Imports none of the libraries."""

from __future__ import annotations

import logging
import warnings


def silence_libraries() -> None:
    """Filter warnings and notices of this process; `harness doctor` names missing packages where it belongs."""
    warnings.filterwarnings("ignore", module=r"megatron\..*")
    warnings.filterwarnings("ignore", module=r"torch\.distributed\.checkpoint\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
    warnings.filterwarnings("ignore", message=r"Transformer Engine and Apex are not installed")
    for library in ("megatron", "torch.utils.cpp_extension"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # Its writers also return what they log, and the trainer reports it once.
    logging.getLogger("megatron.core.dist_checkpointing.strategies.filesystem_async").setLevel(logging.CRITICAL)
    # The same from torch's reader, which uses the root logger.
    logging.getLogger().addFilter(lambda record: record.module != "state_dict_loader")
