"""Reruns of a shard from displaced starts."""
