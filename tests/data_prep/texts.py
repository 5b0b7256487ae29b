"""Good texts of four kinds, for tests of cleaning."""

from __future__ import annotations

ENGLISH = (
    "It was a bright cold day in the early part of April, and the clocks of the town were striking. People hurried "
    "to their work with collars up, and nobody had the time to look at the sky above them."
)
CHINESE = (
    "语言模型的训练需要大量高质量的文本，数据的质量往往比模型的结构更加重要。"
    "因此人们花费许多时间清洗语料，去掉重复的和没有意义的内容，再按照比例混合。"
)
CODE = "import os\n\n\ndef size(path: str) -> int:\n    return os.stat(path).st_size\n\n\nprint(size('a'))\n"
MARKDOWN = "# Title\n\n## Install\n\n- a\n- b\n\n```\nmake install\n```\n\n## Use\n\n- c\n- d\n" + "word " * 30
