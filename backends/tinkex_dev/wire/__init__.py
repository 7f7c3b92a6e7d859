"""Reading of request bodies and writing of answers, as JSON and as protobuf."""
