"""What lives in a Ray process: thin shells over psr_ray."""
