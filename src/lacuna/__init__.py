"""What a brain lesion disconnects."""
