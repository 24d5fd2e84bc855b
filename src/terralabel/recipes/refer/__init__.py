"""What a text says, as masks: from the question to the run folder."""
