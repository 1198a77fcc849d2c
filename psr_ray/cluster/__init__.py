"""Ray: the cluster a run is on, its nodes, and what is asked of them."""
