"""Flags that a server sets for its clients."""

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord


class ClientConfig(ReadRecord):
    """The flags of ``client/config``. Missing flags have the defaults of the official client."""

    proto_compress_fwdbwd: bool = False
    parallel_fwdbwd_chunks: bool = True
    fwdbwd_max_chunk_len: int = Field(default=1024, ge=1)
    fwdbwd_max_chunk_bytes_count: int = Field(default=5_000_000, ge=1)
    custom_loss_server_side: bool = False
    sample_join_sampling_session: bool = False
    sample_use_retrieve_futures: bool = False
