"""Files, folders and shards that are whole or absent, on a disk or in an object store."""
