"""Training: TRL's SFT and DPO trainers, run in a worker process per rank."""
