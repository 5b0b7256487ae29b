from __future__ import annotations

import pytest

pytest.importorskip("datatrove")

from datatrove.pipeline.formatters import PIIFormatter

from data_prep.corpus.private_data import PrivateData, is_identity_number


def test_mail_and_network_addresses_are_datatroves_work() -> None:
    text = "Write to jane.doe@corp.cn or 8.8.8.8, not 10.0.0.1, nor to bob@x.org."
    assert PrivateData().format(text) == PIIFormatter().format(text)
    assert "jane" not in PrivateData().format(text) and "10.0.0.1" in PrivateData().format(text)


def test_stand_ins_do_not_depend_on_what_was_read_before() -> None:
    formatter = PrivateData()
    assert formatter.format("a@b.cn") == formatter.format("c@d.cn") == "email@example.com"


@pytest.mark.parametrize("number", ["13912345678", "+86 139-1234-5678", "86-13912345678", "139 1234 5678"])
def test_mobile_numbers_of_china_are_replaced(number: str) -> None:
    assert PrivateData().format(f"电话：{number}。") == "电话：13800000000。"


@pytest.mark.parametrize("number", ["12912345678", "139123456789", "0.13912345678", "1391234567"])
def test_other_numbers_stay(number: str) -> None:
    assert PrivateData().format(f"数字 {number} 等") == f"数字 {number} 等"


def test_identity_numbers_are_known_by_their_last_place() -> None:
    # The example of GB 11643-1999.
    assert is_identity_number("11010519491231002X") and is_identity_number("11010519491231002x")
    assert PrivateData().format("身份证11010519491231002X，") == "身份证110101199001010000，"
    assert PrivateData().format("编号110105194912310021，") == "编号110105194912310021，"
    assert not is_identity_number("1101051949123100")
