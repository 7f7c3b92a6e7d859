"""Values that cross a boundary: records and how foreign data becomes one, JSON and its schemas, names, digests."""
