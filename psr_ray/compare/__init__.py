"""Methods × seeds: their configs, the stored record of each run, statistics, the results page."""
