"""Makes the demo's shipped text from two unpacked Debian packages; run by maintainers only, see SOURCES.md.

Usage: `python -m data_prep.demo.collect_text FOLDER`, where FOLDER holds both packages unpacked by `dpkg-deb -x`.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

FORTUNES = Path("usr/share/games/fortunes")
NOVELS = Path("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")

ENGLISH_TITLES = ("PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY")

CHINESE_WORKS = ("詩經", "论语", "道德经", "菜根谭", "增广贤文")
"""Works of the `chinese` file that are taken whole."""

AUTHORS = """
屈原 荀子 卓文君 曹操 曹植 陶渊明 王勃 张若虚 张九龄 孟浩然 王之涣 王昌龄 王维 李白
高适 岑参 杜甫 刘长卿 韦应物 戴叔伦 韩愈 白居易 刘禹锡 柳宗元 元稹 李贺 张籍 李颀
孟郊 贾岛 许浑 杜牧 温庭筠 李商隐 杜荀鹤 郑谷 韦庄 孙光宪 牛希济 张泌 冯延巳 李璟
李煜 王禹偁 柳永 范仲淹 张先 晏殊 宋祁 欧阳修 苏舜钦 王琪 王安石 晏几道 苏轼 黄庭坚
秦观 贺铸 周邦彦 程垓 李清照 吕本中 陈与义 张元 岳飞 陆游 范成大 杨万里 朱熹 张孝祥
朱淑真 辛弃疾 陈亮 刘过 姜夔 史达祖 卢祖皋 高观国 刘克庄 吴文英 吴潜 陈人杰 周密 文天祥
刘辰翁 王沂孙 蒋捷 张炎 汪元量 戴复古 李弥逊 赵鼎 袁去华 杨炎正 韩元吉 吕渭老 石孝友 叶梦得
元好问 马致远 徐再思 唐寅 顾太清 袁枚 纳兰性德 郑燮 查慎行 黄景仁 龚自珍
"""
CHINESE_AUTHORS = frozenset(AUTHORS.split())
"""Authors of single poems in the `chinese` file; the youngest died in 1877, so that no copyright can remain."""

ANSI_COLOUR = re.compile("\x1b\\[[0-9;]*m")
ATTRIBUTION = re.compile(r"--\s*(?P<author>[^《\s]*)\s*(?:《(?P<title>[^》]*)》)?\s*$")


def read_fortunes(path: Path) -> Iterator[str]:
    """Yield the entries of a fortune file: separated by lines of a single `%`, colours and indentation taken out."""
    for entry in re.split(r"(?m)^%$\n?", path.read_text(encoding="utf-8")):
        lines = (line.strip() for line in ANSI_COLOUR.sub("", entry).splitlines())
        text = "\n".join(lines).strip("\n")
        if text:
            yield text


def is_classical(text: str) -> bool:
    """Return whether an entry of the `chinese` file is from a listed old work or by a listed author."""
    if text.startswith("《詩經"):
        return True
    match = ATTRIBUTION.search(text)
    if match is None:
        return False
    if match["author"]:
        return match["author"] in CHINESE_AUTHORS
    return match["title"] in CHINESE_WORKS


def chinese_documents(package: Path) -> Iterator[str]:
    """Yield the Tang and Song anthologies, then the classical part of the mixed file."""
    for name in ("tang300", "song100"):
        yield from read_fortunes(package / FORTUNES / name)
    yield from filter(is_classical, read_fortunes(package / FORTUNES / "chinese"))


def read_r_strings(database: bytes) -> Iterator[list[str]]:
    r"""Yield the character vectors of R's lazy-load database.

    Format: records of `uint32 length of the plain data | zlib stream`, back to back. Plain data is an R serialization
    (`X\n`, big endian): three int32 versions, int32 + name of the encoding, then one vector of strings, `int32 16 |
    int32 count`, each string `int32 flags | int32 length | bytes`. All lengths in bytes.
    """
    position = 0
    while position < len(database):
        stream = zlib.decompressobj()
        plain = stream.decompress(database[position + 4 :])
        position = len(database) - len(stream.unused_data)
        (encoding_length,) = struct.unpack_from(">i", plain, 14)
        kind, count = struct.unpack_from(">ii", plain, 18 + encoding_length)
        if kind & 0xFF == 16:
            yield list(_unpack_strings(plain, 26 + encoding_length, count))


def _unpack_strings(plain: bytes, offset: int, count: int) -> Iterator[str]:
    for _ in range(count):
        (length,) = struct.unpack_from(">4xi", plain, offset)
        yield plain[offset + 8 : offset + 8 + length].decode("utf-8")
        offset += 8 + length


def split_chapters(lines: list[str]) -> Iterator[str]:
    """Yield a novel's chapters with their heading, each paragraph on one line, a blank line between paragraphs."""
    text = "\n".join(line.rstrip() for line in lines)
    for chapter in re.split(r"(?mi)^(?=chapter \w+$)", text)[1:]:
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n{2,}", chapter))
        yield "\n\n".join(p for p in paragraphs if p)


def english_documents(package: Path) -> Iterator[str]:
    """Yield the chapters of the listed novels, in the order of the list."""
    novels = {lines[0].strip(): lines for lines in read_r_strings((package / NOVELS).read_bytes()) if lines}
    for title in ENGLISH_TITLES:
        yield from split_chapters(novels[title])


def write_documents(path: Path, documents: Iterable[str]) -> None:
    """Write `{"text": …}` lines as gzip that depends on the documents alone (no time, no file name)."""
    lines = (json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in documents)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
        packed.write(b"".join(lines))


def main(unpacked: Path) -> None:
    """Write `zh.jsonl.gz` and `en.jsonl.gz` beside this file."""
    here = Path(__file__).parent
    write_documents(here / "zh.jsonl.gz", chinese_documents(unpacked))
    write_documents(here / "en.jsonl.gz", english_documents(unpacked))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
