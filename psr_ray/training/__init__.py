"""SFT and step-DPO: examples, losses, and one DeepSpeed loop that Ray Train runs on each worker."""
