"""Fine-tuning: batches of labelled rows, the loop with its early stopping, metrics, and baselines without a network."""
