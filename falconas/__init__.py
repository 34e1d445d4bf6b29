"""FalconAS: named Python scripts, served over ZeroMQ by worker processes."""
