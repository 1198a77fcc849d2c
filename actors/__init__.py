"""Code that runs in Ray processes: thin layers over psr_ray."""
