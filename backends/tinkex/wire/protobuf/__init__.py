"""Protobuf: a reader, a writer, and the codecs of requests and results."""
