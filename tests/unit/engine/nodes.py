"""What a node of a cluster in tests has."""

STORE_BYTES = 100 * 2**20
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_log_monitor": False}
