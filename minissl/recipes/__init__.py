"""What a command does, from data to run folder: the rooms below, put together."""
