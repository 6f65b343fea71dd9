"""Whether a task should be fine-tuned at all: measured, decided by rule, and said with its reasons."""
