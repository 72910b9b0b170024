"""What stays the same between runs: endpoints, credentials, policy. Prefect Blocks, nothing of ours imported."""
