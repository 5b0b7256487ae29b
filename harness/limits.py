"""The largest numbers that settings and options take, each with its reason: the table of all of them.

They are far beyond what anybody trains today, and small enough that whatever follows from them by arithmetic, or is
made once for each, stays within a second and some memory. A number that is larger is a slip, and is refused by name.
"""

from __future__ import annotations

MOST_STEPS = 10**9
"""Steps of a run: at ten steps a second three years."""
MOST_TOKENS = 2**53
"""Tokens of a run, and positions of its samples: up to here a 64-bit float counts every one, as JSON's readers do. It
is some hundred times what any model was trained on."""
MOST_PHASES = 256
"""Phases of a run. Plan, picture and report have lines for each."""
MOST_RISES = 1000
"""Batch sizes of a ramp-up. Each is a stage of the phase that plan and report show; known ones have up to a hundred."""
MOST_SAMPLES = 2**24
"""Samples of a step, or of a micro-batch: with one token each they are more than the largest batches in use."""
MOST_SAMPLE_TOKENS = 2**24
"""Tokens of a sample: the longest contexts have ten million."""
MOST_HELD_OUT_SAMPLES = 10**7
"""Held-out samples of a channel: an evaluation passes over all of them."""
LEAST_NEEDLE_TOKENS = 64
"""Tokens of a sample with needles: half of it is text."""
MOST_LAYERS = 2048
"""Layers of a model: the plan has rows for each; the deepest transformers that were published have a thousand."""
MOST_WIDTH = 2**22
"""Widths of a model, and numbers of its heads: a hundred times those of the largest models."""
MOST_EXPERTS = 2**14
"""Experts of a layer: the largest published models have some hundred. Each is counted in every step."""
MOST_VOCABULARY = 2**31 - 1
"""Ids of a vocabulary: data files have at most 32 bits for one, and Megatron takes them for signed."""
MOST_RANKS = 2**20
"""Ranks along one axis of a layout: several times the GPUs of the largest clusters."""
MOST_NODES = 2**17
"""Nodes of a job: Slurm's own limit is below."""
MOST_ON_A_NODE = 1024
"""GPUs or ranks of a node: the largest hosts have a few hundred cores."""
MOST_PATTERNS = 256
"""Patterns of frozen parameters in all phases. Each is held against the name of every parameter."""
MOST_NS_STEPS = 99
"""Steps of Muon's iteration: `torch.optim.Muon` takes as many; five to ten are in use."""
MOST_EPOCHS = 10**6
"""Passes over a channel."""
LEAST_DECAY = 1e-6
"""Factor of a weight for each epoch: a smaller one is as good as `max_epochs`, and its powers are kept exactly."""
MOST_PARTS = 10**6
"""Parts of a channel that are mixed. Their indices are all in memory."""
MOST_BATCHES_AHEAD = 1024
"""Batches that are prepared ahead. All of them are in memory."""
MOST_SNAPSHOTS = 1024
"""Snapshots that are kept. Each takes the memory of the whole state."""
MOST_LAUNCHES = 10**6
"""Launches or rollbacks that are counted."""
MOST_SEED = 2**62
"""Seeds: libraries add the numbers of ranks to them and keep the sum in 64 bits."""
MOST_SECONDS = 10**9
"""Times: thirty years. The calls of the system that wait take no more than three hundred."""
LEAST_SECONDS = 0.01
"""Time between two looks at a file: a shorter one keeps a processor busy with looking."""
MOST_GIB = 10**9
"""Sizes of disks."""
MOST_FLOAT = 1e30
"""Factors and rates: 32-bit floats, in which weights are, end at 3e38."""
LEAST_FLOAT = 1e-30
"""Factors and rates above zero: smaller numbers than 1e-38 are zero in 32-bit floats, on many devices."""
MOST_TEXT = 1024
"""Characters of one word for Slurm or a program: a hundred of them fit into the 128 KiB of one argument."""
MOST_ARGUMENT = 65536
"""Characters of one argument of a program: the system takes 128 KiB."""
MOST_ENTRIES = 100
"""Words of one kind."""
MOST_TASKS = 10**6
"""Tasks of an array of jobs: Slurm's own limit is four million."""
MOST_SPARE_IDS = 10**6
"""Control symbols that a tokenizer keeps for later: each is a piece of its own."""
MOST_THREADS = 1024
"""Threads, or processes, that a tool uses at once."""
MOST_COUNT = 2**53
"""Numbers of documents, rows and characters that are only counted or compared."""
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.1, 1000.0
"""Of sampling channels by their tokens: below, the largest is all; above, all are equal."""
