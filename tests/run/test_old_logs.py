"""What is kept of old launches."""

from __future__ import annotations

from pathlib import Path

from harness.run.old_logs import remove_old_logs
from harness.run.paths import RunDir

RECORDS = ["config.yaml", "ended.json", "git.diff", "launch.json", "nodes.json", "submission.json", "watch.log"]
OF_NODES = [
    *(f"node_{index}.log" for index in range(3)),
    *(f"node_0000{index}.json" for index in range(3)),
    "bad_node_00001.json",
    "stacks_node_00002.txt",
    "rank_00001.log",
    "nccl.n1.77.log",
]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_of_old_launches_what_happened_is_kept_and_what_nodes_wrote_is_not(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    for number in range(1, 5):
        folder = run_dir.launch(number)
        (folder / "flight_recorder").mkdir(parents=True)
        for name in (*RECORDS, *OF_NODES, "flight_recorder/node_00000.tar"):
            (folder / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (run_dir.launch(1) / "flight_recorder" / "link").symlink_to(tmp_path / "elsewhere")
    before = names(run_dir.launch(4))

    remove_old_logs(run_dir, keep=2)
    assert [names(run_dir.launch(number)) for number in (1, 2)] == [RECORDS, RECORDS]
    assert [names(run_dir.launch(number)) for number in (3, 4)] == [before, before]
    assert (tmp_path / "elsewhere" / "kept").exists()
    remove_old_logs(RunDir(tmp_path / "nothing"), keep=2)
