"""Says twice a second how many GPUs of the cluster at RAY_ADDRESS are reserved: time and number."""

import time

import ray

ray.init(logging_level="ERROR")
while True:
    there = ray.cluster_resources().get("GPU", 0.0)
    print(time.time(), there - ray.available_resources().get("GPU", 0.0), flush=True)
    time.sleep(0.5)
