"""Files, folders and shards that are complete or absent, on a disk or in an object store."""
