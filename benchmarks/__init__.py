"""What the models cost and how fast they are: each command writes a results file, from which the tables come."""
