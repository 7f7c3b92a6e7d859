"""The contract tests of downloads: a saved checkpoint as an adapter that PEFT loads."""

from pathlib import Path

import pytest

from crucible.adapter_files import CONFIG, WEIGHTS, read_adapter_config
from crucible.backend import TrainingBackend
from crucible.errors import InvalidRequest, NotFound, Unsupported
from crucible.testing.loop import run_opened
from crucible.testing.training_base import TrainingContract
from crucible.training import IntentKind, LiveRun

_LIMIT = 1 << 30


class DownloadContract(TrainingContract):
    """The suite. ``TrainingBackendContract`` includes it. A backend without ``supports_download`` must refuse."""

    def test_a_checkpoint_is_downloaded_as_an_adapter(self, backend: TrainingBackend, tmp_path: Path) -> None:
        """Sampling weights and training states give the files of an adapter, twice the same bytes, within the
        limit, with progress up to the whole; a checkpoint that is gone raises NotFound and leaves no file."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            path = await self._saved_as(run, "contract-download", IntentKind.SAVE_SAMPLER)
            folders = [tmp_path / str(number) for number in range(5)]
            for folder in folders:
                folder.mkdir()
            if not (await opened.capabilities()).supports_download:
                with pytest.raises(Unsupported):
                    await opened.download_checkpoint(path, folders[0], max_bytes=_LIMIT)
                return
            seen: list[tuple[int, int | None]] = []
            for folder in folders[:2]:
                await opened.download_checkpoint(
                    path, folder, max_bytes=_LIMIT, report=lambda done, total: seen.append((done, total))
                )
            config = read_adapter_config(folders[0])
            assert config.rank == self.spec.lora.rank
            files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders[:2]]
            assert files[0] == files[1]
            assert set(files[0]) >= {CONFIG, WEIGHTS}
            assert seen
            assert all(0 <= done <= (total or _LIMIT) for done, total in seen)
            state = await self._saved_as(run, "contract-state", IntentKind.SAVE_STATE)
            await opened.download_checkpoint(state, folders[2], max_bytes=_LIMIT)
            assert (folders[2] / WEIGHTS).read_bytes() == files[0][WEIGHTS]
            with pytest.raises(InvalidRequest, match="max_bytes"):
                await opened.download_checkpoint(state, folders[3], max_bytes=100)
            await opened.delete_checkpoint(state)
            with pytest.raises(NotFound):
                await opened.download_checkpoint(state, folders[4], max_bytes=_LIMIT)
            assert not list(folders[4].iterdir())
            await run.close(unload=True)

        run_opened(backend, body)

    async def _saved_as(self, run: LiveRun, name: str, kind: IntentKind) -> str:
        return (await (await run.send(run.prepare_save(name, step=0, kind=kind))).result()).path
