"""The effect log continues over restarts."""

from pathlib import Path

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.storage.effect_log import EffectLog


def test_a_line_cut_by_a_crash_costs_that_line_alone(tmp_path: Path):
    """Entries before and after it are read, and numbering continues."""
    file = tmp_path / "log.jsonl"
    first = EffectLog(file, ServerClock())
    for seq_id in (1, 2):
        first.write(model_id="m", seq_id=seq_id, kind="optim_step", step=seq_id)
    first.close()
    file.write_text(file.read_text()[:-20])

    second = EffectLog(file, ServerClock())
    second.write(model_id="m", seq_id=3, kind="optim_step", step=3)
    second.write(model_id="n", seq_id=1, kind="forward")

    assert [entry["seq_id"] for entry in second.entries(model_id="m")] == [1, 3]
    assert [entry["model_id"] for entry in second.entries(kind="forward")] == ["n"]
    second.close()
