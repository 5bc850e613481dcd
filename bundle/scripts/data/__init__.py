"""Studies to datalists, datalists to records, records to tensors and batches."""
