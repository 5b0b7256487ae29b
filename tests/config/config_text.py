"""A small complete configuration as text, for tests that change it."""

SMALL = """\
run:
  name: small
model:
  num_layers: 4
  hidden_size: 64
  num_attention_heads: 8
  ffn_hidden_size: 128
  vocab_size: 1000
data:
  channels:
    zh: {path: data/zh}
    en: {path: data/en}
phases:
  - name: main
    train_steps: 100
    seq_length: 32
    global_batch_size: 8
    blend: {zh: 2, en: 1}
optimizer:
  learning_rate: 3e-4
"""


def changed(old: str, new: str) -> str:
    """`SMALL` with one piece replaced; the piece must be there."""
    assert SMALL.count(old) == 1, f"{old!r} is not once in the configuration"
    return SMALL.replace(old, new)
