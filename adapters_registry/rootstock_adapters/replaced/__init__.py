"""Parameters of the base that a part brings anew: PEFT's `modules_to_save`, and trained biases."""
